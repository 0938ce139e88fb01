"""docs/reference/report.md is correct: its lines recompute the report's numbers, and its keys are the report's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import Sweep

from sweepft.ledger import SweepState
from sweepft.report import summarise
from sweepft.report.compare import compare
from sweepft.report.tables import CSV_COLUMNS

TEXT = (Path(__file__).parents[3] / "docs/reference/report.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## Every number, recomputed")[1]
LINES = re.findall(r"^\| `([^`]+)` \| `(.+)` \|$", SECTION, re.M)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with stops, audits and a fault, whose stopped trials were judged at rungs."""
    return Sweep(trials=40, slots=4, seed=3).write(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return summarise(SweepState.load(run), price=2.5)


@pytest.fixture(scope="module")
def names(run: Path) -> dict[str, Any]:
    """What the documented preamble defines."""
    space: dict[str, Any] = {"run": run}
    exec(re.search(r"```python\n(.*?)```", SECTION, re.S)[1], space)
    return space


def look_up(report: Any, path: str) -> Any:
    for key in path.split("."):
        report = report[int(key)] if isinstance(report, list) else report[key]
    return report


def test_report_docs__sweep_has_what_the_numbers_need(names: dict[str, Any]) -> None:
    assert len(LINES) >= 25
    for group in ("stopped", "audits", "ended", "done"):
        assert names[group], group


@pytest.mark.parametrize(("path", "expression"), LINES, ids=[path for path, _ in LINES])
def test_report_docs__line_recomputes_the_number(
    path: str, expression: str, report: dict[str, Any], names: dict[str, Any]
) -> None:
    assert look_up(report, path) == pytest.approx(eval(expression, names), rel=1e-9, abs=1e-7)


def test_report_docs__keys_are_those_of_the_report(report: dict[str, Any]) -> None:
    section = TEXT.split("## `report.json`")[1].split("## Every number")[0]
    documented = {
        k for line in re.findall(r"^\| (`.*?) \|", section, re.M) for k in re.findall(r"`(\w+)`", line)
    }
    assert documented == set(report)
    record = section.split("A trial's record:")[1]
    outside = re.sub(r"\([^)]*\)", "", record)
    assert set(re.findall(r"`(\w+)`", outside)) == set(report["trials"][0])
    for key in ("result", "cost", "stops"):
        row = re.search(rf"^\| `{key}` \| (.*) \|$", section, re.M)[1]
        named = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row)))
        assert named == set(report[key]), key
    for key in ("signals", "findings"):
        row = re.search(rf"^\| `{key}` \| rows `(.*)` \|$", section, re.M)[1]
        assert set(row.split(", ")) == set(report[key][0]), key


def test_report_docs__csv_columns_are_those_written() -> None:
    section = TEXT.split("## `ranked.csv`")[1]
    assert tuple(re.search(r"`([^`]+)`", section)[1].replace("\n", " ").split(", ")) == CSV_COLUMNS


def test_report_docs__keys_are_those_of_a_comparison(run: Path) -> None:
    section = TEXT.split("`comparison.json`, schema version 2:")[1].split("## ")[0]
    found = compare([(run, SweepState.load(run))] * 2)
    outside = re.sub(r"\([^)]*\)", "", section)
    assert set(re.findall(r"`(\w+)`", outside)) == set(found)
    named = re.search(r"`sweeps` \(`([^`]+)`", section)[1]
    assert set(re.split(r",\s+", named)) == set(found["sweeps"][0])
