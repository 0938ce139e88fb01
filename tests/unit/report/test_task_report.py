"""The report of a sweep that maximizes a task: direction, noise, pairing over items, and what the task took."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support.ledger_builder import LedgerBuilder
from sweepft.report import summarise, write_report
from sweepft.report.compare import compare
from sweepft.report.tables import markdown, terminal_table

TASK = {"task": "maths", "metric": "exact_match"}
ITEMS = 20


def scored(sweep: LedgerBuilder, name: str, right: int, *, items: bool = True, **fields: Any) -> None:
    """A completed trial that has the first ``right`` of the items right."""
    value = right / ITEMS
    values = [1.0 - value] * right + [-value] * (ITEMS - right)
    task = {"stderr": 0.1, "items": ITEMS, "seconds": 1.0, "residuals": values if items else None}
    sweep.trial(name, **fields).steps(name, 10)
    sweep.eval(name, value, task=task, sets={"own": {"loss": 2.0 - value, "stderr": 0.01, "samples": 5}})
    sweep.cost(name, seconds=19.0).cost(name, "evaluate", 1.0).end(name, "completed", value)


def sweep_with(*right: int, items: bool = True, direction: str = "maximize", **fields: Any) -> LedgerBuilder:
    """A sweep whose trials have so many items right; the first is the baseline."""
    sweep = LedgerBuilder(
        spec={"objective": {direction: TASK, "max_share": 0.1}, "data": {"validation": [{"name": "own"}]},
              "early_stop": {"rungs": [0.25, 0.5]}, "search": {"space": {"learning_rate": {}}}}
    )  # fmt: skip
    for i, count in enumerate(right):
        origin = "start_with" if i == 0 else "sampler"
        params = {"learning_rate": 1e-3 * (i + 1)}
        rungs = [0.5] if i == len(right) - 1 else None
        scored(sweep, f"t{i}", count, origin=origin, params=params, objective_rungs=rungs, items=items)
    return sweep.finish()


def test_report__the_highest_score_wins_and_says_on_how_many_items() -> None:
    sweep = sweep_with(4, 12, 8).state()
    summary = summarise(sweep)
    assert [t["trial_id"] for t in summary["trials"]] == ["t1", "t2", "t0"]
    result = summary["result"]
    assert (result["winner"]["objective"], result["winner"]["stderr"]) == (0.6, 0.1)
    assert result["winner"]["bits_per_byte"] is None
    assert result["difference"]["value"] == pytest.approx(0.2)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table(sweep, summary))
    for text in (console.export_text(), markdown(summary)):
        assert "0.6 ± 0.1" in text
        assert "20 items" in text
        assert "nats" not in text.split("## Recipe")[0].replace("nats above", "")


def test_gain__of_a_task_is_paired_over_items() -> None:
    """Seven of twenty items are gained and none is lost; unpaired, the noise would be twice as large."""
    gain = summarise(sweep_with(4, 11).state())["result"]["gain"]
    own, base = ([float(i < right) - right / ITEMS for i in range(ITEMS)] for right in (11, 4))
    square = sum((one - other) ** 2 for one, other in zip(own, base, strict=True))
    assert gain["value"] == pytest.approx(0.35)
    assert gain["stderr"] == pytest.approx(math.sqrt(ITEMS / (ITEMS - 1) * square) / ITEMS)
    assert gain["verdict"] == "better"
    assert gain["samples"] == ITEMS
    assert "of maths exact_match, over 20 items, without seed noise" in gain["text"]


def test_gain__without_items_takes_the_noise_of_both() -> None:
    gain = summarise(sweep_with(4, 11, items=False).state())["result"]["gain"]
    assert gain["stderr"] == pytest.approx(math.hypot(0.1, 0.1))


def test_report__of_a_minimized_task_ranks_the_lowest_first() -> None:
    summary = summarise(sweep_with(4, 12, 8, direction="minimize").state())
    assert [t["trial_id"] for t in summary["trials"]] == ["t0", "t2", "t1"]
    assert summary["result"]["gain"]["verdict"] == "baseline_wins"


def test_report__says_what_the_task_took_and_where_it_is_left_out() -> None:
    found = summarise(sweep_with(4, 12, 8).state())["objective"]
    assert (found["name"], found["mode"], found["unit"]) == ("maths exact_match", "max", None)
    task = found["task"]
    assert (task["items"], task["seconds"], task["share"]) == (ITEMS, 1.0, pytest.approx(0.05))
    assert (task["left_out"], task["from_trial"]) == ([0.25], "t2")
    assert "From t2 on it was not measured at 25% of the budget" in task["text"]
    assert summarise(LedgerBuilder().completed("t0", 1.0).state())["objective"]["task"] is None


def test_report__early_signals_and_effects_follow_the_direction() -> None:
    """A higher rate is better here, in the last of three models of one hyperparameter."""
    trials = summarise(sweep_with(*range(3, 15)).state())
    rate = next(
        f for f in trials["findings"] if f["finding"] == "learning rate" and f["metric"] == "objective"
    )
    assert rate["effect"] is None or rate["effect"] < 0
    assert trials["importances"] == {"learning_rate": 1.0}


def test_report__files_are_written(tmp_path: Path) -> None:
    paths = write_report(sweep_with(4, 12, 8).save(tmp_path))
    page = paths["html"].read_text()
    assert "maths exact_match at full budget" in page
    assert "more is better; 20 items, ± standard error over items" in page
    assert "maths exact_match" in paths["csv"].read_text() or "0.6" in paths["csv"].read_text()


def test_compare__ranks_sweeps_of_one_task_and_refuses_others() -> None:
    one, other, loss = sweep_with(4, 11).state(), sweep_with(4, 15).state(), LedgerBuilder().state()
    other.header["name"] = "other"
    found = compare([("a/one", one), ("a/other", other)])
    assert (found["best"], found["unit"], found["not_comparable"]) == ("other", "score", [])
    behind = next(s["behind"] for s in found["sweeps"] if s["behind"])
    assert behind["value"] == pytest.approx(0.2)
    assert compare([("a/one", one), ("a/loss", loss)])["not_comparable"][0] == "their objectives differ"
