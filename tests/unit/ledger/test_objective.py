"""The objective's one sign convention, and what follows from it in the state of a sweep."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import Objective, affordable_rungs, ranking, task_cost, winner

TASK = {"task": "maths", "metric": "exact_match"}
MAXIMIZED: dict[str, Any] = {"objective": {"maximize": TASK}}


@pytest.mark.parametrize(
    ("spec", "name", "mode"),
    [
        ({}, "validation loss", "min"),
        ({"objective": {"minimize": "validation_loss"}}, "validation loss", "min"),
        (MAXIMIZED, "maths exact_match", "max"),
        ({"objective": {"minimize": TASK}}, "maths exact_match", "min"),
    ],
)
def test_objective__name_and_mode_are_those_of_the_spec(spec: dict[str, Any], name: str, mode: str) -> None:
    found = Objective.of(spec)
    assert (found.name, found.mode) == (name, mode)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.booleans())
def test_objective__cost_and_ahead_agree_in_both_directions(a: float, b: float, maximize: bool) -> None:
    objective = Objective(maximize)
    better = a > b if maximize else a < b
    assert (objective.cost(a) < objective.cost(b)) == better
    assert (objective.ahead(a, b) > 0) == better
    assert objective.cost(None) == objective.cost(math.nan) == math.inf


def measured(sweep: LedgerBuilder, trial: str, score: float, seconds: float = 2.0) -> None:
    """A trial that is measured at its half and its end, and trains 8 seconds besides."""
    sweep.trial(trial)
    for step, value in ((5, score / 2), (10, score)):
        sweep.steps(trial, step)
        sweep.eval(trial, value, task={"stderr": 0.1, "items": 20, "seconds": seconds})
        sweep.cost(trial, seconds=4.0).cost(trial, "evaluate", seconds)
    sweep.end(trial, "completed", objective=score)


def test_ranking__of_a_maximized_task_puts_the_highest_first() -> None:
    sweep = LedgerBuilder(spec=MAXIMIZED)
    for trial, score in (("t0", 0.4), ("t1", 0.9), ("t2", 0.6)):
        measured(sweep, trial, score)
        assert sweep.state().leader is not None
    state = sweep.state()
    assert [entry.trial.trial_id for entry in ranking(state)] == ["t1", "t2", "t0"]
    assert winner(state) is state.trials["t1"]
    assert state.trials["t1"].objective == 0.9, "the ledger holds it as it was measured"


def test_task_cost__is_known_once_a_trial_has_completed() -> None:
    sweep = LedgerBuilder(spec=MAXIMIZED)
    sweep.trial("t0").steps("t0", 5).eval("t0", 0.1, task={"stderr": 0.1, "items": 20, "seconds": 2.0})
    assert task_cost(sweep.state().search_trials) is None
    measured(sweep, "t1", 0.5)
    assert task_cost(sweep.state().search_trials) == (2.0, 8.0)
    sweep.trial("t2").cost("t2", "switch", 60.0)  # its slot's ranks start
    measured_again = sweep.steps("t2", 10).eval("t2", 0.5, task={"stderr": 0.1, "items": 20, "seconds": 2.0})
    measured_again.cost("t2", seconds=6.0).cost("t2", "evaluate", 2.0).end("t2", "completed", 0.5)
    assert task_cost(sweep.state().search_trials) == (2.0, 7.0), "the median of 8 and 6 seconds"


@pytest.mark.parametrize(
    ("each", "rest", "share", "kept"),
    [
        (0.0, 100.0, 0.1, (0.05, 0.1, 0.25, 0.5)),
        (2.0, 100.0, 0.1, (0.05, 0.1, 0.25, 0.5)),  # five measurements are 9.1%
        (3.0, 100.0, 0.1, (0.25, 0.5)),
        (10.0, 100.0, 0.1, ()),
        (90.0, 100.0, 0.1, ()),  # the end is measured all the same
        (90.0, 100.0, 1.0, (0.05, 0.1, 0.25, 0.5)),
    ],
)
def test_affordable_rungs__the_latest_that_the_share_allows(
    each: float, rest: float, share: float, kept: tuple[float, ...]
) -> None:
    rungs = (0.05, 0.1, 0.25, 0.5)
    assert affordable_rungs(rungs, each, rest, share) == kept
    taken = each * (len(kept) + 1)
    assert not kept or taken <= share * (taken + rest)
