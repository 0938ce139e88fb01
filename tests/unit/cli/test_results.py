"""``--json`` of commands: the result alone, as the printed schema describes it; errors, too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from support.ledger_builder import LedgerBuilder
from support.specs import on_files, spec_dict
from sweepft.cli.main import cli
from sweepft.cli.results import run_result, schemas
from sweepft.driver.sweep import SweepResult

ROOT = Path(__file__).parents[3]


def printed(*arguments: str | Path) -> Any:
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def check(name: str, found: Any) -> None:
    jsonschema.validate(found, json.loads(CliRunner().invoke(cli, ["schema", name]).stdout))


@pytest.fixture
def spec(tmp_path: Path, tiny_model_dir: Path, tiny_data_file: Path) -> Path:
    values = on_files(tiny_model_dir, tiny_data_file) | {"data.validation": [{"name": "h", "fraction": 0.25}]}
    (tmp_path / "sweep.yaml").write_text(json.dumps(spec_dict(values)))
    return tmp_path / "sweep.yaml"


def test_json__commands_without_a_run(spec: Path) -> None:
    check("presets", printed("presets", "--for", spec))
    check("validate", printed("validate", spec, "--no-files"))
    assert printed("validate", spec, "--no-files") == {"spec": str(spec), "name": "tiny", "data": None}


@pytest.mark.full
def test_json__commands_that_read_the_data(spec: Path, tiny_model_dir: Path, tiny_data_file: Path) -> None:
    check("validate", printed("validate", spec))
    spec.with_name("own.py").write_text("def score(answer, row): return len(answer) > 0\n")
    own = f"objective={{maximize: {{data: {tiny_data_file}, metric: 'own:score', include_path: {spec.parent}}}}}"
    found = printed("validate", spec, "--set", own)
    check("validate", found)
    assert found["data"]["own_metrics"][0]["scores"] == [1.0, 0.0]
    check("data", printed("data", spec))
    out = spec.with_name("new.yaml")
    found = printed("init", "--model", tiny_model_dir, "--data", tiny_data_file, "--gpus", "0", "--out", out)
    check("init", found)
    assert found["plan"]["trials"] == 16
    plan = CliRunner().invoke(cli, ["plan", str(spec), "--json", "-"])
    check("plan", json.loads(plan.stdout))


def test_json__of_a_run(tmp_path: Path) -> None:
    sweep = LedgerBuilder(tmp_path / "run")
    sweep.trial("t000", params={"learning_rate": 1e-3})
    sweep.end("t000", "completed", 1.5)
    sweep.trial("t001", params={"learning_rate": 1.0})
    sweep.end("t001", "diverged", float("nan"))
    state = sweep.finish().close().state()
    finished = SweepResult(
        tmp_path / "run", state, "finished", {"html": tmp_path / "report.html"}, tmp_path / "best"
    )
    found = json.loads(json.dumps(run_result(finished), allow_nan=False))
    check("run", found)
    assert (found["winner"]["trial_id"], found["winner"]["params"]) == ("t000", {"learning_rate": 1e-3})
    assert [(t["trial_id"], t["rank"], t["status"]) for t in found["trials"]] == [
        ("t000", 1, "completed"),
        ("t001", None, "diverged"),
    ]
    assert (found["exit_code"], found["next"]) == (0, None)
    check("status", printed("status", tmp_path / "run"))


@pytest.mark.parametrize(("limit", "over"), [(2.0, 0.0), (1.2, 0.3)])
def test_status__says_what_the_best_value_is_of_and_whether_it_meets_the_bounds(
    tmp_path: Path, limit: float, over: float
) -> None:
    spec = {"search": {"subject_to": {"math": {"at_most": limit}}}}
    sweep = LedgerBuilder(tmp_path / "run", spec=spec).trial("t000").steps("t000", 10).eval("t000", 1.5)
    sweep.cost("t000").end("t000", "completed", 1.5).finish().close()
    found = printed("status", tmp_path / "run")
    check("status", found)
    assert (found["best"]["metric"], found["best"]["violation"]) == ("eval_loss", pytest.approx(over))
    text = CliRunner().invoke(cli, ["status", str(tmp_path / "run")]).stdout
    assert "best so far: t000  eval_loss 1.5000" in text
    assert ("none meets the bounds; nearest, 0.3 beyond" in text) is (over > 0)


def test_json__of_a_replay(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    rows = [f"r{run},{step},{run + 10 / step}" for run in range(6) for step in range(1, 11)]
    table.write_text("run_id,step,eval_loss\n" + "\n".join(rows) + "\n")
    done = CliRunner().invoke(
        cli,
        ["replay", str(table), "--rule", "median", "--orders", "2", "--json", "-"],
        catch_exceptions=False,
    )
    found = json.loads(done.stdout)
    check("replay", found)
    assert [(row["rule"], row["runs"], row["orders"]) for row in found] == [("median", 6, 2)]
    assert "6 runs" in done.stderr


def test_json__errors_name_every_problem(spec: Path) -> None:
    command = [sys.executable, "-m", "sweepft", "validate", str(spec), "--set", "train.schedule=cos", "--set"]
    done = subprocess.run(
        [*command, "search.trials=0", "--json"], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    jsonschema.validate(found, schemas()["error"]())
    assert done.returncode == 2
    assert [p["key"] for p in found["error"]["problems"]] == ["train.schedule", "search.trials"]
    assert all(p["remedy"] and p["where"].startswith("--set") for p in found["error"]["problems"])


def test_json__schema_of_every_command_that_prints_json() -> None:
    with_json = {
        name for name, command in cli.commands.items() if any("--json" in p.opts for p in command.params)
    }
    asked = {"stop", "pin", "clone", "extend", "pause", "continue"}
    assert with_json - asked == schemas().keys() - {"command", "error"}
    for make in schemas().values():
        jsonschema.Draft202012Validator.check_schema(make())
    assert CliRunner().invoke(cli, ["schema", "nonesuch"]).exit_code == 2


@pytest.mark.parametrize(
    "page", ["AGENTS.md", "docs/llms.txt", "docs/how-to/init.md", "docs/reference/json.md"]
)
def test_pages_for_agents__name_commands_options_and_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    blocks = "\n".join(re.findall(r"(?s)```\n(.*?)```", text))
    for name, rest in re.findall(r"(?m)^sweepft (\w+)([^#\n]*)", blocks):
        options = {o for p in cli.commands[name].params for o in p.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, (name, rest)
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link
