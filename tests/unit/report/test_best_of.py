"""What the report says of trials that count by their best evaluation."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest
from scipy import stats

from support.ledger_builder import LedgerBuilder
from sweepft.report import summarise
from sweepft.report.tables import markdown, ranked_csv

SPEC = {
    "objective": {"at": "best"},
    "data": {"validation": [{"name": "math"}]},
    "early_stop": {"rungs": [0.25, 0.5], "patience": 2},
}


def report(schedule: str = "cosine") -> dict[str, Any]:
    """Four epochs of 25 samples: the baseline improves to its end, t1 has its best loss after two epochs, and the
    patience of t2 ends it.
    """
    sweep = LedgerBuilder(spec=SPEC, samples_per_step=5, data={"train": {"rows": 25}})
    trials = {"t0": [2.4, 2.2, 2.1, 2.0], "t1": [2.0, 1.5, 1.6, 1.8], "t2": [2.5, 2.6, 2.7]}
    for name, losses in trials.items():
        config = {"batch_size": 5, "learning_rate": 1e-3, "schedule": schedule}
        sweep.trial(name, origin="start_with" if name == "t0" else "sampler", train_config=config)
        for i, loss in enumerate(losses):
            sets = {
                "math": {
                    "loss": loss,
                    "stderr": 0.01,
                    "tokens": 100,
                    "samples": 10,
                    "residuals": [0.1 * i, -0.1 * i, 0.2],
                }
            }
            counts = loss == min(losses[: i + 1])
            sweep.steps(name, 5 * (i + 1)).eval(name, loss, sets=sets, counts=counts)
            if name == "t2" and i == 2:
                sweep.decision(name, "patience", rule="patience", reason="no better")
            sweep.cost(name)
        sweep.end(name, "completed", min(losses))
    found: dict[str, Any] = summarise(sweep.finish().state())
    return found


def test_report__says_which_evaluation_counts_and_what_the_end_had() -> None:
    summary = report()
    winner = summary["result"]["winner"]
    assert (winner["trial_id"], winner["objective"], winner["validation"]["math"]["loss"]) == ("t1", 1.5, 1.5)
    best = winner["best"]
    assert (best["step"], best["epochs"], best["evaluations"], best["end"]) == (10, 2.0, 4, 1.8)
    assert best["undecayed"]
    assert "best of 4 evaluations, at step 10 of 20, 2 epochs; at its end it had 1.8" in best["text"]
    by_name = {t["trial_id"]: t for t in summary["trials"]}
    assert by_name["t0"]["best"]["is_end"]
    assert not by_name["t0"]["best"]["undecayed"]
    assert by_name["t2"]["best"]["end"] is None
    page = markdown(summary)
    assert best["text"].split(";")[0] in page
    assert "## Results by length of training" in page
    rows = {row["trial_id"]: row for row in csv.DictReader(io.StringIO(ranked_csv(summary)))}
    assert (rows["t1"]["best_step"], rows["t1"]["end_objective"], rows["t2"]["end_objective"]) == (
        "10",
        "1.8",
        "",
    )


@pytest.mark.parametrize(
    ("schedule", "honest"), [("cosine", [False, False, False, True]), ("constant", [True] * 4)]
)
def test_report__each_length_has_its_best_trial(schedule: str, honest: list[bool]) -> None:
    rows = report(schedule)["by_length"]
    assert [(row["epochs"], row["trial_id"], row["objective"], row["trials"]) for row in rows] == [
        (1.0, "t1", 2.0, 3), (2.0, "t1", 1.5, 3), (3.0, "t1", 1.6, 3), (4.0, "t1", 1.8, 2),
    ]  # fmt: skip
    assert [row["honest_end"] for row in rows] == honest


def test_report__gain_allows_for_the_choice_among_evaluations() -> None:
    gain = report()["result"]["gain"]
    width = float(stats.norm.isf(0.025 / (2 * 4 * 4))) * gain["stderr"]
    assert (gain["low"], gain["high"]) == pytest.approx((gain["value"] - width, gain["value"] + width))
    assert gain["value"] == pytest.approx(0.5)
    assert "at the best of its 4 evaluations, which the interval allows for" in gain["text"]


def test_report__counts_patience_apart_from_the_rule() -> None:
    stops = report()["stops"]
    assert (stops["stopped"], stops["by_rule"]) == (0, {})
    patience = stops["patience"]
    assert (patience["evaluations"], patience["ended"]) == (2, 1)
    assert patience["saved"] == pytest.approx(5 * 0.1), "five steps were left, and evaluations took no time"


def test_report__trials_that_count_by_their_end_have_no_best_evaluation() -> None:
    summary = summarise(LedgerBuilder().completed("t0", 2.0).finish().state())
    assert summary["by_length"] == []
    assert summary["trials"][0]["best"] is None
    assert summary["stops"]["patience"] is None
    assert math.isclose(summary["result"]["winner"]["objective"], 2.0)


def test_report__with_a_bound_says_why_a_better_end_does_not_count() -> None:
    """t0 meets the bound up to its second evaluation, t1 never does, and at the first one nothing bounded was measured."""
    spec = SPEC | {
        "objective": {"at": "best", "measure": [{"task": "gsm", "metric": "acc"}]},
        "search": {"subject_to": {"gsm": {"at_least": 0.3}}},
    }
    sweep = LedgerBuilder(spec=spec, samples_per_step=5, data={"train": {"rows": 25}})
    sweep.score(None, "measured: gsm", {"acc": (0.5, 0.05)}, what="measured")
    trials = {
        "t0": ([2.4, 2.2, 2.1, 2.0], [None, 0.4, 0.2, 0.1], 2.2),
        "t1": ([1.9, 1.8, 1.7, 1.6], [None, 0.2, 0.1, 0], 1.8),
    }
    for name, (losses, scores, value) in trials.items():
        sweep.trial(name, origin="start_with" if name == "t0" else "sampler")
        for i, (loss, score) in enumerate(zip(losses, scores, strict=True)):
            one = {"value": score, "stderr": 0.05, "items": 50, "seconds": 1.0, "higher_is_better": True}
            sweep.steps(name, 5 * (i + 1))
            sweep.eval(name, loss, tasks={} if score is None else {"gsm": one}, counts=loss == value).cost(
                name
            )
        sweep.end(name, "completed", value)
    summary = summarise(sweep.finish().state())
    best = {t["trial_id"]: t["best"] for t in summary["trials"]}
    assert (summary["result"]["winner"]["trial_id"], best["t0"]["evaluations"]) == ("t0", 3)
    assert "at its end it had 2, beyond the bounds" in best["t0"]["text"]
    assert "at its end it had 1.6, further beyond the bounds" in best["t1"]["text"]
    rows = [(row["trial_id"], row["trials"], round(row["violation"], 3)) for row in summary["by_length"]]
    assert rows == [("t0", 2, 0.0), ("t0", 2, 0.1), ("t0", 2, 0.2)]
    assert [line for line in markdown(summary).splitlines() if line.startswith("| 50%")] == [
        "| 50% | 2 | 2 | t0 | 2.2000 | met | no |"
    ]
