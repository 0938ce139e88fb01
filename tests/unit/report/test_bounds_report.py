"""Bounds in the report: who wins, what is said, the front."""

from __future__ import annotations

from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.report import summarise
from sweepft.report.bounds import bounded_values
from sweepft.report.tables import markdown, ranked_csv

ABOVE_BASE = {"retention": {"at_most": 0.2, "above": "base"}}
TRIALS = {"t0": (2.0, 3.0), "t1": (2.1, 1.4), "t2": (2.3, 1.15), "t3": (2.4, 1.05), "t4": (2.5, 1.3)}


def report(bounds: dict[str, Any], base: float | None = None) -> dict[str, Any]:
    sets = [{"name": "math"}, {"name": "retention", "weight": 0.0}]
    sweep = LedgerBuilder(spec={"data": {"validation": sets}, "search": {"subject_to": bounds}})
    if base is not None:
        sweep.score(None, "retention", {"loss": base}, what="validation")
    for i, (name, (objective, retention)) in enumerate(TRIALS.items()):
        losses = {
            key: {"loss": loss, "stderr": 0.01, "tokens": 100, "samples": 10, "residuals": [0.1 * i, -0.1]}
            for key, loss in (("math", objective), ("retention", retention))
        }
        sweep.trial(name, origin="start_with" if i == 0 else "sampler").steps(name, 10)
        sweep.eval(name, objective, sets=losses).cost(name).end(name, "completed", objective)
    return summarise(sweep.finish().state(), kept=["t2"])


@pytest.mark.parametrize(
    ("bounds", "base", "winner", "runner_up", "words"),
    [
        ({}, None, "t0", "t1", None),
        (
            ABOVE_BASE,
            1.0,
            "t2",
            "t3",
            "2 of 5 completed trials meet the bounds: retention at most 0.2 nats above",
        ),
        (ABOVE_BASE, 0.5, "t3", None, "No completed trial meets the bounds"),
        (ABOVE_BASE, None, "t0", "t1", "whose loss is being measured"),
        ({"retention": {"at_most": 1.2}}, None, "t2", "t3", "retention at most 1.2 nats"),
    ],
)
def test_report__the_winner_is_the_best_that_meets_the_bounds(
    bounds: dict[str, Any], base: float | None, winner: str, runner_up: str | None, words: str | None
) -> None:
    found = report(bounds, base)
    result = found["result"]
    second = (result["runner_up"] or {}).get("trial_id")
    assert (result["winner"]["trial_id"], second) == (winner, runner_up)
    if words is None:
        assert found["bounds"] is None
        assert [row["set"] for row in result["forgetting"]] == ["retention"], "warned of without a bound"
        return
    assert words in found["bounds"]["text"]
    assert words.partition(":")[0] in markdown(found)
    if winner == "t3":
        assert found["bounds"]["nearest"] == {"trial_id": "t3", "over": pytest.approx(0.35)}
        assert result["headline"] == "t3 is nearest to the bounds, which no completed trial meets."
        assert result["gain"]["verdict"] == "baseline_over_bounds"
        assert "t3 comes nearer to the bounds than the baseline t0" in result["gain"]["text"]
        assert "0.35 against 2.3 nats above them; by validation loss it is 0.4000" in result["gain"]["text"]
    if winner == "t2":
        assert "first of 2 trials that meet the bounds (5 completed, 5 in all)" in result["headline"]
        assert (result["gain"]["verdict"], result["forgetting"]) == ("baseline_over_bounds", [])


def test_report__front_and_violations() -> None:
    found = report(ABOVE_BASE, 1.0)
    front = [(row["trial_id"], row["weights"]) for row in found["bounds"]["front"]]
    assert front == [("t0", False), ("t1", False), ("t2", True), ("t3", False)], "t4 is beaten by t2"
    assert [(t["trial_id"], round(t["violation"], 3)) for t in found["trials"]] == [
        ("t2", 0.0), ("t3", 0.0), ("t4", 0.1), ("t1", 0.2), ("t0", 1.8),
    ]  # fmt: skip
    assert ranked_csv(found).splitlines()[0].split(",")[13] == "violation"
    text = markdown(found)
    assert "## Objective against bounded losses" in text
    assert "| t1 | 2.1000 | 1.4000 | +0.2 | not kept |" in text


# --- bounds on tasks -------------------------------------------------------------------------------------

GSM = {"task": "gsm", "metric": "acc", "limit": 100}


def task_report(bound: dict[str, Any] | None, base: float | None = 0.5) -> dict[str, Any]:
    spec = {
        "objective": {"measure": [GSM]},
        "data": {"validation": [{"name": "math"}]},
        "search": {"subject_to": {} if bound is None else {"gsm": bound}},
    }
    sweep = LedgerBuilder(spec=spec)
    if base is not None and bound is not None:
        sweep.score(None, "measured: gsm", {"acc": (base, 0.05)}, what="measured")
    for i, (name, (loss, score)) in enumerate(
        {"t0": (2.0, 0.1), "t1": (2.1, 0.35), "t2": (2.3, 0.48)}.items()
    ):
        tasks = {
            "gsm": {"value": score, "stderr": 0.05, "items": 100, "seconds": 2.0, "higher_is_better": True}
        }
        sweep.trial(name, origin="start_with" if i == 0 else "sampler").steps(name, 10)
        sweep.eval(name, loss, tasks=tasks).cost(name).end(name, "completed", loss)
    return summarise(sweep.finish().state(), kept=["t2"])


@pytest.mark.parametrize(
    ("bound", "base", "winner", "words"),
    [
        ({"at_least": 0.3}, 0.5, "t1", "2 of 3 completed trials meet the bounds: gsm acc at least 0.3."),
        ({"at_most": 0.1, "below": "base"}, 0.5, "t2", "gsm acc at most 0.1 below the base model's 0.5"),
        ({"at_most": 0.1, "below": "base"}, None, "t0", "whose score is being measured"),
        ({"at_least": 0.6}, 0.5, "t2", "t2 comes nearest, 0.12 beyond, and stands first"),
    ],
)
def test_report__the_winner_is_the_best_that_meets_the_bound_on_a_task(
    bound: dict[str, Any], base: float | None, winner: str, words: str
) -> None:
    found = task_report(bound, base)
    assert found["result"]["winner"]["trial_id"] == winner
    assert words in found["bounds"]["text"]
    assert found["bounds"]["text"].rstrip(".") in markdown(found)


def test_report__front_of_a_task_shows_its_values() -> None:
    found = task_report({"at_least": 0.3})
    assert [(row["trial_id"], row["losses"]) for row in found["bounds"]["front"]] == [
        ("t0", {"gsm": 0.1}), ("t1", {"gsm": 0.35}), ("t2", {"gsm": 0.48}),
    ]  # fmt: skip
    (row,) = found["bounds"]["sets"]
    assert (row["metric"], row["limit"], row["base"]) == ("acc", 0.3, 0.5)
    text = markdown(found)
    assert "## Objective against bounded losses and tasks" in text
    assert "| t2 | 2.3000 | 0.4800 | met | kept |" in text
    heads, *rows = ranked_csv(found).splitlines()
    assert rows[0].split(",")[heads.split(",").index("task.gsm")] == "0.35"
    won = {"value": 0.35, "stderr": 0.05, "items": 100, "higher_is_better": True}
    assert found["result"]["winner"]["tasks"]["gsm"] == won


@pytest.mark.parametrize(
    ("bound", "base", "shown"),
    [
        ({"at_least": 0.3}, 0.5, "gsm 0.35 (base model 0.5, allowed at least 0.3)"),
        ({"at_most": 0.2, "below": "base"}, 0.5, "gsm 0.35 (base model 0.5, allowed at least 0.3)"),
        ({"at_least": 0.9}, 0.5, "gsm 0.48 (base model 0.5, allowed at least 0.9)"),
    ],
)
def test_report__values_of_the_winner_beside_the_bounds(
    bound: dict[str, Any], base: float | None, shown: str
) -> None:
    found = task_report(bound, base)
    assert bounded_values(found["bounds"], found["result"]["winner"]) == shown


def test_report__warns_of_a_task_without_a_bound_that_the_winner_is_worse_on() -> None:
    found = task_report({"at_least": 0.05})["result"]
    assert (found["winner"]["trial_id"], found["forgetting"]) == ("t0", []), "what may be lost was asked for"
    summary = task_report(None)
    (row,) = summary["result"]["forgetting"]
    assert (row["set"], row["loss"], row["runner_up"], row["least"]["trial_id"]) == ("gsm", 0.1, 0.35, "t2")
    assert "it has 0.1 on gsm, and the runner-up t1 has 0.35. t2 has 0.48, and is 0.3 behind" in row["text"]
    assert "may have forgotten" in markdown(summary)
