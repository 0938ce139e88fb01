"""Bounds on validation losses: their limits, and how they order trials and finalists."""

from __future__ import annotations

from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import SweepState, finalists, pareto_front, ranking, winner

ABOVE_BASE = {"retention": {"at_most": 0.1, "above": "base"}}


def sweep(bounds: dict[str, Any], **losses: tuple[float, float]) -> LedgerBuilder:
    """Completed trials with these losses on the objective and on ``retention``."""
    built = LedgerBuilder(spec={"search": {"subject_to": bounds}})
    for name, (objective, retention) in losses.items():
        sets = {"math": {"loss": objective, "stderr": 0.01}, "retention": {"loss": retention, "stderr": 0.01}}
        built.trial(name).steps(name, 10).eval(name, objective, sets=sets).cost(name)
        built.end(name, "completed", objective)
    return built


def order(state: SweepState) -> str:
    return " ".join(entry.trial.trial_id for entry in ranking(state))


def base_loss(built: LedgerBuilder, loss: float) -> LedgerBuilder:
    return built.score(None, "retention", {"loss": loss}, what="validation")


TRIALS = {"a": (1.0, 3.0), "b": (1.2, 2.3), "c": (1.5, 1.05), "d": (1.6, 1.0)}


@pytest.mark.parametrize(
    ("bounds", "base", "expected"),
    [
        ({}, None, "a b c d"),
        ({"retention": {"at_most": 2.5}}, None, "b c d a"),
        (ABOVE_BASE, None, "a b c d"),  # the limit is not known yet
        (ABOVE_BASE, 1.0, "c d b a"),
        (ABOVE_BASE, 0.5, "d c b a"),  # none meets it: the nearest first
        (ABOVE_BASE | {"math": {"at_most": 1.55}}, 1.0, "c d b a"),
        ({"unmeasured": {"at_most": 9.0}}, None, "a b c d"),
    ],
)
def test_ranking__trials_that_meet_the_bounds_come_first(
    bounds: dict[str, Any], base: float | None, expected: str
) -> None:
    built = sweep(bounds, **TRIALS)
    state = (built if base is None else base_loss(built, base)).state()
    assert order(state) == expected
    assert winner(state) is state.leader is state.trials[expected[0]]


def test_bounds__a_base_model_that_cannot_be_measured_has_none() -> None:
    state = sweep(ABOVE_BASE, **TRIALS).score(None, "retention", what="validation", reason="broken").state()
    assert (state.bounds.pending, state.bounds.limits, state.bounds.entries[0].problem) == (
        False,
        {},
        "broken",
    )
    assert order(state) == "a b c d"
    state.apply({"kind": "score", "trial_id": None, "name": "retention", "metrics": {"loss": {"value": 1.0}}})
    assert order(state) == "c d b a", "measured by a resume"


def test_finalists__that_do_not_meet_the_bounds_follow_those_that_do() -> None:
    built = base_loss(sweep(ABOVE_BASE, **TRIALS), 1.0).finalists("a", "c", "d")
    for name, accuracy in (("a", 0.9), ("c", 0.4), ("d", 0.5)):
        built.score(name, "maths", {"acc": accuracy})
    state = built.score(None, "maths", {"acc": 0.1}).state()
    assert [f.trial.trial_id for f in finalists(state)] == ["d", "c", "a"]
    assert winner(state) is state.trials["d"]


def test_pareto_front__has_what_no_other_beats() -> None:
    points = {
        "a": (1.0, 3.0),
        "b": (2.0, 2.0),
        "c": (2.0, 2.5),
        "d": (3.0, 2.0),
        "e": (4.0, 1.0),
        "f": (1.0, 3.0),
    }
    assert pareto_front(points) == ["a", "b", "e"]
