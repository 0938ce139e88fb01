"""Every file in sweeps/ validates and can be planned, without network, model or data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from click.testing import CliRunner

from sweepft.cli.main import cli
from sweepft.spec import PRESETS, load

SWEEPS = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))
RECIPES = [path for path in SWEEPS if path.stem.startswith("secret-recipe")]
SILENT = {  # explained in the files' comments
    "some batch sizes have too few steps for the early rungs",
    "bf16 weights do not follow the lowest learning rate",
}


def names(path: Path) -> str:
    return path.stem


def test_sweeps__promised_files_exist() -> None:
    recipes = {f"secret-recipe-{model}" for model in ("granite-3b", "granite-7b", "llama-3b", "mistral-7b")}
    assert {path.stem for path in SWEEPS} >= {
        "demo",
        "gsm8k-tiny",
        "lora-7b-one-gpu",
        "one-node-8gpu",
        "multi-node",
        *recipes,
    }


@pytest.mark.parametrize("path", SWEEPS, ids=names)
def test_sweeps__validate(path: Path) -> None:
    done = CliRunner().invoke(cli, ["validate", str(path), "--no-files"], catch_exceptions=False)
    assert done.output == f"{path}: ok (model and data not checked)\n"
    assert load(path, check_files=False).name == path.stem


@pytest.mark.parametrize("path", SWEEPS, ids=names)
def test_sweeps__plan_fits_80_columns_without_warnings(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    done = CliRunner().invoke(
        cli, ["plan", str(path), "--no-files", "--json", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in done.output
    found = json.loads(out.read_text())
    assert {warning.partition(":")[0] for warning in found["warnings"]} <= SILENT


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_recipes__hold_the_papers_settings(path: Path) -> None:
    """Its batch sizes, no warmup and constant among the choices, and published settings to begin with."""
    spec = load(path, check_files=False)
    space, seven = spec.search.space, "7b" in path.stem
    assert space["batch_size"].choices == (128, 3840, 7680)
    assert space["warmup"].contains(0.0)
    assert space["schedule"].contains("constant")
    assert spec.train.zero_stage == (3 if seven else 2)
    assert dict(spec.search.start_with[-1]) == dict(PRESETS["large-batch"].params)
    for rate in (1e-6, 5e-6, 2e-5) if "mistral" in path.stem else (2e-5, 1e-4):
        assert space["learning_rate"].contains(rate)


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_recipes__rank_finalists_as_in_the_paper(path: Path, harness: dict[str, Any]) -> None:
    """MMLU, the six parts of the Open LLM Leaderboard v2 and MT-Bench count a third each; the harness has these tasks,
    and they have these metrics."""
    evaluate = load(path, check_files=False).evaluate
    assert evaluate is not None
    names = {task.name for task in evaluate.each_task()}
    assert names == {"mmlu", *harness["leaderboard"]["task"]}
    assert evaluate.mt_bench is not None
    weights = {key.partition(".")[0]: weight for key, weight in evaluate.weights.items()}
    assert set(weights) == {*names, "mt_bench"}
    parts = sum(weights[name] for name in names - {"mmlu"})
    assert weights["mmlu"] == parts == 10 * weights["mt_bench"]  # whose scores go to ten
    for key in evaluate.weights:
        name, metric = key.split(".")
        if name != "mt_bench":
            config = harness[name]
            listed = config.get("aggregate_metric_list") or config["metric_list"]
            assert metric in {entry["metric"] for entry in listed}, key


@pytest.fixture(scope="module")
def harness() -> dict[str, Any]:
    """The installed harness's task files by name; its templates, which a part may include, are followed."""
    home = Path(lm_eval.__file__).parent / "tasks"
    found = {}
    for file in [*home.glob("leaderboard/**/*.yaml"), *home.glob("mmlu/default/_*.yaml")]:
        config = yaml.load(file.read_text(), Loader=_Lenient)
        if "include" in config:
            config = yaml.load((file.parent / config["include"]).read_text(), Loader=_Lenient) | config
        found[config.get("task") if isinstance(config.get("task"), str) else config.get("group")] = config
    return found


class _Lenient(yaml.SafeLoader):
    """Takes the harness's tag for a function as its name."""


_Lenient.add_constructor("!function", lambda loader, node: node.value)


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_recipes__fit_one_node(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    CliRunner().invoke(cli, ["plan", str(path), "--no-files", "--json", str(out)], catch_exceptions=False)
    found = json.loads(out.read_text())
    assert found["cluster"]["nodes"] == 1
    assert found["placement"]["idle"] == 0
    assert found["memory"]["rank_bytes"]["total"] < found["cluster"]["memory"]
