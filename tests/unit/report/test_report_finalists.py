"""Finalists in the report: the documented numbers, the winner by score, and every file that shows them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finals_sweep import finals_sweep
from scipy import stats
from test_report_docs import look_up

from sweepft.ledger import SweepState
from sweepft.report import summarise, write_report
from sweepft.report.finalists import _range_of, _replicated

TEXT = (Path(__file__).parents[3] / "docs/reference/report.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## Finalists' numbers, recomputed")[1].split("\n## ")[0]
LINES = re.findall(r"^\| `([^`]+)` \| `(.+)` \|$", SECTION, re.M)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finals_sweep(tmp_path_factory.mktemp("finals"))


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return summarise(SweepState.load(run))


@pytest.fixture(scope="module")
def names(run: Path) -> dict[str, Any]:
    space: dict[str, Any] = {"run": run, "np": np}
    exec(re.search(r"```python\n(.*?)```", SECTION, re.S)[1], space)
    return space


@pytest.mark.parametrize(("path", "expression"), LINES, ids=[path for path, _ in LINES])
def test_report_docs__finalists_line_recomputes_the_number(
    path: str, expression: str, report: dict[str, Any], names: dict[str, Any]
) -> None:
    assert look_up(report, path) == pytest.approx(eval(expression, names), rel=1e-9)


def test_report_docs__finalists_keys_are_those_of_the_report(report: dict[str, Any]) -> None:
    row = re.search(r"^\| `finalists` \| (.*) \|$", TEXT, re.M)[1].partition("else")[2]
    assert set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row))) - {"rank_by"} == set(
        report["finalists"]
    ) - {"rank_by"}
    record = TEXT.split("A finalist's row:")[1].split("##")[0]
    outside = re.sub(r"\([^)]*\)", "", record)
    assert set(re.findall(r"`(\w+)`", outside)) == set(report["finalists"]["rows"][0])


def test_winner__is_first_by_rank_by_with_its_replicates(report: dict[str, Any]) -> None:
    answer = report["result"]
    assert answer["winner"]["trial_id"] == "t0"
    assert answer["criterion"] == "maths.acc"
    assert answer["headline"] == "t0 is first of 2 finalists by maths.acc, ahead by more than the noise."
    assert (
        answer["difference"]["text"]
        == "more than the noise over replicates of one and items of the other; the latter does not include seed noise"
    )
    assert not any("test_set" in line or "Benchmarks" in line for line in report["not_measured"])
    assert not any(line.startswith("Paired") for line in report["not_measured"]), "decided by scores"
    assert [t["rank"] for t in report["trials"] if t["replicate_of"]] == [None] * 3


def test_winner__rank_by_can_reverse_the_order(tmp_path: Path) -> None:
    view = SweepState.load(finals_sweep(tmp_path, rank_by={"test_set": 1.0}))
    assert summarise(view)["result"]["winner"]["trial_id"] == "t0"
    before = summarise(SweepState.load(finals_sweep(tmp_path / "open", scored=False)))
    assert before["result"]["winner"]["trial_id"] == "t0"
    assert before["result"]["criterion"] == "objective", "until the finalists are scored"
    assert before["finalists"]["in_progress"]


@pytest.mark.parametrize("scored", [("t0",), ("t0", "t1")])
def test_winner__single_finalist_has_no_runner_up(tmp_path: Path, scored: tuple[str, ...]) -> None:
    run = finals_sweep(tmp_path, chosen=scored, broken="t1")
    answer = summarise(SweepState.load(run))["result"]
    assert answer["winner"]["trial_id"] == "t0"
    assert answer["runner_up"] is None
    assert answer["difference"] is None
    assert "nothing to compare it with" in answer["headline"]
    write_report(run)


@pytest.mark.parametrize(
    ("what", "metric", "values", "low", "high"),
    [
        ("task", "acc", [0.02, 0.06], 0.0, None),
        ("task", "exact_match,strict", [0.94, 0.98], None, 1.0),
        ("task", "f1", [94.0, 98.0], None, None),  # in percent
        ("test", "loss", [0.01, 0.05], 0.0, None),
        ("mt_bench", "score", [1.1, 1.9], 1.0, None),
        ("task", "bleu", [0.02, 0.06], None, None),
    ],
)
def test_finalists__interval_stays_in_the_range_of_its_metric(
    what: str, metric: str, values: list[float], low: float | None, high: float | None
) -> None:
    found = _replicated(values, _range_of(what, metric))
    half = stats.t.ppf(0.975, 1) * stats.sem(values)
    assert found["low"] == (low if low is not None else pytest.approx(np.mean(values) - half))
    assert found["high"] == (high if high is not None else pytest.approx(np.mean(values) + half))


def test_write_report__every_file_shows_the_finalists(run: Path) -> None:
    files = write_report(run)
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    first = rows[0]
    assert first["trial_id"] == "t0"
    assert first["finalist.place"] == "1"
    assert float(first["score.maths.acc"]) == 0.42
    assert float(first["score.test_set.loss.stderr"]) == 0.03
    assert next(r for r in rows if r["trial_id"] == "t2")["finalist.place"] == ""
    text = files["md"].read_text()
    assert "## Finalists" in text
    assert "0.42 ± 0.02 (+0.32)" in text.replace("\\", "")
    page = files["html"].read_text()
    assert '<section id="finalists">' in page
    assert "base model" in page
    assert '<a href="#finalists">' in page
    assert '<section id="finalists">' not in _without(run)


def _without(run: Path) -> str:
    from synthetic_sweep import Sweep

    return write_report(Sweep(trials=4).write(run.parent / "plain"))["html"].read_text()
