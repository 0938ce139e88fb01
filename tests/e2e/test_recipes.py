"""Every file in sweeps/ runs from end to end with ``--tiny``: packing, ZeRO in bf16 on two ranks, stops, finalists
scored by the harness and ordered, the winner exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from safetensors import safe_open

from sweepft.cli.main import cli
from sweepft.ledger import read_ledger

SWEEPS = Path(__file__).parents[2] / "sweeps"
RECIPES = {
    # architecture, ZeRO stage
    "secret-recipe-mistral-7b": ("mistral", 3),
    "secret-recipe-granite-3b": ("granite", 2),
    "secret-recipe-granite-7b": ("llama", 3),
    "secret-recipe-llama-3b": ("llama", 2),
}

OTHERS = sorted({file.stem for file in SWEEPS.glob("*.yaml")} - set(RECIPES))

LEADERBOARD = {f"leaderboard_{part}" for part in ("ifeval", "bbh", "math_hard", "gpqa", "musr", "mmlu_pro")}

pytestmark = pytest.mark.ray


@pytest.mark.full
@pytest.mark.parametrize("name", RECIPES)
def test_recipes__whole_path_runs(name: str, ray_here: None, tmp_path: Path) -> None:
    architecture, stage = RECIPES[name]
    out = tmp_path / "run"
    arguments = ["run", str(SWEEPS / f"{name}.yaml"), "--tiny", "--out", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    rows = read_ledger(out)
    first = rows[0]
    assert first["name"] == f"{name}-tiny"
    assert first["spec"]["train"]["micro_batch"] == {"tokens": 256}
    assert (first["spec"]["train"]["zero_stage"], first["spec"]["train"]["precision"]) == (stage, "bf16")
    ends = [row for row in rows if row["kind"] == "end"]
    assert len(ends) == 6
    assert {row["status"] for row in ends} <= {"completed", "stopped"}
    (evaluated, *_) = [row for row in rows if row["kind"] == "eval"]
    assert set(evaluated["sets"]) == {"own", "no-robots"}
    scores = [row for row in rows if row["kind"] == "score"]
    assert {row["name"] for row in scores if row["what"] == "task"} == {"mmlu", *LEADERBOARD}
    assert all(row["metrics"] and not row["reason"] for row in scores)
    assert len({row["trial_id"] for row in scores}) == 3  # two finalists and the base model
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert "leaderboard_ifeval" in page
    best = out / "best"
    config = json.loads((best / "config.json").read_text())
    assert config["model_type"] == architecture
    with safe_open(best / "model.safetensors", "np") as weights:
        assert "model.layers.1.self_attn.k_proj.weight" in weights.keys()  # noqa: SIM118 - no mapping


@pytest.mark.full
@pytest.mark.parametrize("name", OTHERS)
def test_other_sweeps__reach_their_end(name: str, ray_here: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(cli, ["run", str(SWEEPS / f"{name}.yaml"), "--tiny", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = read_ledger(out)
    assert rows[0]["name"] == f"{name}-tiny"
    assert rows[-1]["kind"] == "finish"
    assert rows[-1]["status"] == "finished"
    ends = [row for row in rows if row["kind"] == "end"]
    assert len({row["trial_id"] for row in ends}) == len(ends) >= 6
    assert {row["status"] for row in ends} <= {"completed", "stopped"}
    wanted = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())
    train = rows[0]["spec"]["train"]
    assert train["zero_stage"] == wanted["train"]["zero_stage"]
    assert train["precision"] == wanted["train"]["precision"]
    assert ("lora" in train) == ("lora" in wanted["train"])
    if wanted.get("evaluate"):
        scores = [row for row in rows if row["kind"] == "score"]
        assert scores
        assert all(row["metrics"] and not row["reason"] for row in scores)
    assert "<html" in (out / "report.html").read_text()
    assert list((out / "best").rglob("*.safetensors"))
