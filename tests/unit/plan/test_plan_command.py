"""``sweepft plan``: printed and JSON output, flags, and imports."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn
from unittest import mock

import pytest
from click.testing import CliRunner

from support.errors import raises
from support.sweeps import write_spec
from sweepft.cli.main import cli
from sweepft.errors import DataError, SpecError
from sweepft.plan import Flags
from sweepft.spec import SweepSpec

ROOT = Path(__file__).parents[3]
LIGHT = """
import sys
sys.argv = ["sweepft", "plan", {spec!r}, "--no-files"]
from sweepft.cli import main
main()
print("LOADED", sorted({{"ray", "torch", "transformers", "deepspeed"}} & set(sys.modules)))
"""


@pytest.fixture
def spec(tmp_path: Path, tiny_model_dir: Path, tiny_data_file: Path) -> Path:
    return write_spec(tmp_path, tiny_model_dir, tiny_data_file)


def plan(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["plan", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def keys_of(value: object, prefix: str = "") -> set[str]:
    if isinstance(value, list):
        return set().union(*(keys_of(item, prefix) for item in value)) if value else set()
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, inner in value.items():
        found.add(prefix + key)
        if key not in ("rung_steps", "gib_by_stage_and_ranks", "step_seconds"):  # their keys are data
            found |= keys_of(inner, prefix + key + ".")
    return found


def test_plan__every_json_key_is_documented(spec: Path, tmp_path: Path) -> None:
    """docs/reference/plan-json.md has a table of the keys; what is written has them all and no others."""
    gpu, out = tmp_path / "gpu.json", tmp_path / "cpu.json"
    plan(
        ROOT / "sweeps" / "one-node-8gpu.yaml", "--no-files", "--set", "evaluate.tasks=[mmlu]", "--json", gpu
    )
    assert plan(spec, "--json", out)[0] == 0
    page = (ROOT / "docs" / "reference" / "plan-json.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", page.partition("## The JSON")[2], re.M))
    written = keys_of(json.loads(gpu.read_text())) | keys_of(json.loads(out.read_text()))
    assert {key for key in documented if not key.startswith("measured.")} == written
    from sweepft.plan.measure import Measured

    fields = {f"measured.{name}" for name in Measured.__dataclass_fields__}
    assert {key for key in documented if key.startswith("measured.")} == fields


def test_plan__reads_local_rows_and_model(spec: Path, tmp_path: Path) -> None:
    """Row lengths come from tokenised rows, the model's size from its weight files."""
    out = tmp_path / "plan.json"
    code, text = plan(spec, "--json", out)
    found = json.loads(out.read_text())
    assert code == 0
    assert found["data"]["source"].startswith("all ")
    assert found["data"]["train"] + found["data"]["validation"] == 96
    assert 10 < found["data"]["tokens"] < 128
    assert found["model"]["source"] == "its weight files"
    assert found["assumptions"] == ["time is not estimated for trials on CPUs (--measure)"]
    assert "(from its weight files)" in text


def test_plan__refuses_rows_that_a_run_would_refuse(spec: Path, tiny_data_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(tiny_data_file.read_text() + '{"nothing": 1}\n')
    with raises(DataError, "columns") as caught:
        plan(spec, "--set", f"data.train.0.path={broken}")
    assert caught.value.problems[0].where == f"{broken}:97"


def test_plan__no_files_loads_nothing_heavy() -> None:
    code = LIGHT.format(spec=str(ROOT / "sweeps" / "demo.yaml"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED []\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--measure", "--no-files"], "--measure needs the files"),
        (["--params", "lots"], "is not a number such as 3B"),
        (["--mfu", "1.5"], "--mfu"),
        (["--nodes", "0"], "--nodes"),
    ],
)
def test_plan__refuses_invalid_flags(arguments: list[str], words: str) -> None:
    code, text = plan(ROOT / "sweeps" / "demo.yaml", *arguments)
    assert code == 2
    assert words in text


def test_plan__every_flag_reaches_the_plan() -> None:
    """Each option is a field of ``Flags``: one that is not passed on would change nothing, without a word."""
    given = {
        "gpu": "h100", "gpu_memory": 70.0, "gpus_per_node": 4, "nodes": 3, "cpus_per_node": 40, "mfu": 0.3,
        "peak_tflops": 500.0, "network": 50.0, "parameters": 3_000_000_000, "tokens": 500.0, "rows": 9000,
    }  # fmt: skip
    names = {"parameters": "params", "tokens": "tokens-per-sample"}
    options = [(f"--{names.get(name, name).replace('_', '-')}", value) for name, value in given.items()]
    seen: list[Flags] = []

    def keep(spec: SweepSpec, flags: Flags) -> NoReturn:
        seen.append(flags)
        raise DataError([])

    with mock.patch("sweepft.plan.make_plan", keep), pytest.raises(DataError):
        plan(ROOT / "sweeps" / "one-node-8gpu.yaml", "--no-files", *itertools.chain(*options))
    assert seen == [Flags(**given, files=False)]  # type: ignore[arg-type]


def test_plan__refuses_a_broken_spec(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("name: broken\n")
    with raises(SpecError, "model"):
        plan(tmp_path / "sweep.yaml")


@pytest.mark.full
def test_plan__measure_times_real_steps(spec: Path, tmp_path: Path) -> None:
    """``--measure`` runs both batch sizes on two ranks of a real process group."""
    out = tmp_path / "plan.json"
    sizes = ["--set", "resources={workers_per_trial: 2, concurrent_trials: 1}"]
    code, text = plan(spec, *sizes, "--measure", "--json", out)
    found = json.loads(out.read_text())
    assert code == 0
    measured = found["measured"]
    assert set(measured["step_seconds"]) == {"8", "16"}
    assert all(seconds > 0 for seconds in measured["step_seconds"].values())
    assert measured["steps"] == 5  # a budget of 96 has six steps of 16, and the first is not timed
    assert measured["slots"] == 1
    assert measured["peak_bytes"] > 100 * 2**20
    steps = {8: 12, 16: 6}
    each = [
        steps[size] * measured["step_seconds"][str(size)] + 3 * measured["evaluate_seconds"] for size in steps
    ]
    assert 0 < measured["switch_seconds"] < measured["start_seconds"]
    assert found["cost"]["trial_seconds"] == pytest.approx(measured["switch_seconds"] + sum(each) / 2)
    assert found["data"]["source"] == "tokenised"
    assert "measured here" in text
