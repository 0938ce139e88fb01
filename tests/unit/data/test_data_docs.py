"""The examples and tables of docs/how-to/data.md are correct."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from support.specs import on_files, spec_dict
from sweepft.data.outcomes import KEPT, LOST
from sweepft.data.template_choice import BUILT_IN
from sweepft.spec import from_dict

DOC = (Path(__file__).parents[3] / "docs/how-to/data.md").read_text()


def test_data_page__example_runs(
    tiny_model_dir: Path,
    tiny_data_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", DOC, re.S)
    spec = spec_dict(
        on_files(tiny_model_dir, tiny_data_file)
        | {"data.validation": [{"name": "h", "fraction": 0.25}], "train.budget.samples": 32}
    )
    (tmp_path / "sweep.yaml").write_text(json.dumps(spec))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/how-to/data.md", "exec"), {})
    rows, order = capsys.readouterr().out.splitlines()
    assert rows == "72"
    assert len(order.strip("[]").split()) == 8


def test_data_page__sweep_over_strategies_is_valid() -> None:
    shown = next(y for y in re.findall(r"```yaml\n(.*?)```", DOC, re.S) if "phases:" in y)
    spec = yaml.safe_load(shown) | {
        "name": "docs",
        "model": {"path": "org/m"},
        "train": {"budget": {"samples": 32}, "micro_batch": 4, "learning_rate": 0.001, "batch_size": 8},
    }
    spec["data"]["validation"] = [{"name": "h", "fraction": 0.1}]
    spec["search"]["trials"] = 2
    assert from_dict(spec).search.space["data.strategy"].choices == ("stacked", "phased")


def test_data_page__lists_outcomes_and_templates() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", DOC, re.M))
    assert {*LOST, *KEPT} <= table
    assert set(BUILT_IN) <= table
