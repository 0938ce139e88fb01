"""Bounds on tasks in the ledger's state: limits, the base model's score, the ranking, and what is known of a trial."""

from __future__ import annotations

import math
from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import base_score, costs_of, ranking, task_cost

MEASURE = [
    {"task": "gsm", "metric": "acc", "limit": 100},
    {"data": "rows/typos.jsonl", "metric": "my:count", "lower_is_better": True},
]
TRIALS = {"a": (1.0, 0.1), "b": (1.2, 0.28), "c": (1.5, 0.4), "d": (1.6, 0.5)}


def entry(value: float, *, higher: bool = True) -> dict[str, Any]:
    return {"value": value, "stderr": 0.04, "items": 100, "seconds": 2.0, "higher_is_better": higher}


def sweep(bounds: dict[str, Any], **trials: tuple[float, float]) -> LedgerBuilder:
    """Completed trials with these losses, and these scores on ``gsm``."""
    built = LedgerBuilder(spec={"objective": {"measure": MEASURE}, "search": {"subject_to": bounds}})
    for name, (loss, score) in trials.items():
        built.trial(name).steps(name, 10).eval(name, loss, tasks={"gsm": entry(score)}).cost(name)
        built.end(name, "completed", loss)
    return built


def measured(
    built: LedgerBuilder, value: float | None, name: str = "gsm", metric: str = "acc"
) -> LedgerBuilder:
    fields: dict[str, Any] = {"what": "measured"} | ({"reason": "broken"} if value is None else {})
    return built.score(
        None, base_score(name, True), None if value is None else {metric: (value, 0.04)}, **fields
    )


@pytest.mark.parametrize(
    ("bound", "base", "expected", "limit"),
    [
        ({"at_least": 0.3}, 0.2, "c d b a", 0.3),
        ({"at_least": 0.3}, None, "c d b a", 0.3),  # the base model could not be measured
        ({"at_most": 0.05, "below": "base"}, 0.5, "d c b a", 0.45),
        ({"at_most": 0.3, "below": "base"}, 0.5, "b c d a", 0.2),
        ({"at_most": 0.3, "below": "base"}, None, "a b c d", None),
        ({"at_most": 0.5, "below": "base"}, 0.5, "a b c d", 0.0),
        ({"at_least": 0.9}, 0.2, "d c b a", 0.9),  # none meets it: the nearest first
    ],
)
def test_ranking__trials_that_meet_the_bound_on_a_task_come_first(
    bound: dict[str, Any], base: float | None, expected: str, limit: float | None
) -> None:
    built = sweep({"gsm": bound}, **TRIALS)
    assert built.state().bounds.pending, "the base model is measured first"
    state = measured(built, base).state()
    assert not state.bounds.pending
    assert " ".join(entry.trial.trial_id for entry in ranking(state)) == expected
    (found,) = state.bounds.entries
    assert found.worst == (None if limit is None else pytest.approx(limit))
    assert found.worst is None or math.copysign(1, found.worst) == 1


def test_bounds__the_score_of_the_finalists_is_another_one() -> None:
    built = measured(sweep({"gsm": {"at_most": 0.05, "below": "base"}}, **TRIALS), 0.5)
    state = built.score(None, "gsm", {"acc": 0.9}).state()
    assert state.bounds.limits == {"gsm": pytest.approx(-0.45)}
    assert state.bounds.noise == {"gsm": pytest.approx(math.sqrt(2) * 0.04)}


@pytest.mark.parametrize(
    ("bound", "base", "cost"),
    [
        ({"at_least": 0.3}, 0.5, -0.5),
        ({"at_least": 0.3}, 0.1, -0.3),  # training must improve it: nothing is allowed to be judged early
        ({"at_least": 0.3}, None, -0.3),
        ({"at_most": 0.1, "below": "base"}, 0.5, -0.5),
    ],
)
def test_bounds__the_base_counts_only_where_it_meets_the_bound(
    bound: dict[str, Any], base: float | None, cost: float
) -> None:
    state = measured(sweep({"gsm": bound}, **TRIALS), base).state()
    assert state.bounds.base == {"gsm": pytest.approx(cost)}


def test_bounds__a_function_of_which_less_is_better_has_a_ceiling() -> None:
    built = LedgerBuilder(
        spec={
            "objective": {"measure": MEASURE},
            "search": {"subject_to": {"typos": {"at_most": 1, "above": "base"}}},
        }
    )
    state = measured(built, 3.0, "typos", "count").state()
    assert state.bounds.limits == {"typos": 4.0}
    assert state.bounds.entries[0].metric == "count"


def test_trial__keeps_the_last_value_of_a_task_that_is_not_measured_everywhere() -> None:
    built = LedgerBuilder(spec={"objective": {"measure": MEASURE}}).trial("t")
    built.steps("t", 3).eval("t", 2.0, tasks={"gsm": entry(0.2), "typos": entry(4.0, higher=False)})
    built.steps("t", 6).eval("t", 1.5)
    trial = built.state().trials["t"]
    assert trial.losses == {"math": 1.5, "gsm": -0.2, "typos": 4.0}
    assert trial.evals[-1]["tasks"] == {}


def test_costs__losses_and_turned_values() -> None:
    assert costs_of({"own": {"loss": 1.5}, "gone": {}}, {"gsm": entry(0.4), "none": {"value": None}}) == {
        "own": 1.5, "gone": None, "gsm": -0.4, "none": None,
    }  # fmt: skip


def test_task_cost__counts_all_tasks_of_an_evaluation() -> None:
    built = LedgerBuilder(spec={"objective": {"measure": MEASURE}}).trial("t").steps("t", 10)
    tasks = {"gsm": entry(0.4), "typos": entry(1.0, higher=False)}
    built.eval("t", 0.5, task={"stderr": 0.1, "items": 20, "seconds": 1.0}, tasks=tasks)
    built.cost("t", seconds=90.0).cost("t", "evaluate", 5.0).end("t", "completed", 0.5)
    assert task_cost(built.state().search_trials) == (5.0, 90.0)
