"""Early stopping in a search with bounds: what is out of reach, and which trials a rule must leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, MedianRule, make_report, replay_state

LIMITS, BASE = {"retention": 1.5}, {"retention": 1.0}


def stopper(**settings: Any) -> EarlyStopper:
    made = EarlyStopper(rule=MedianRule(2), rungs=[0.5], budget=100, mode="min", keep_last=0, **settings)
    made.set_bounds(LIMITS, BASE)
    return made


def at(progress: float, metric: float, retention: float) -> Any:
    return make_report(
        step=[int(progress)], progress=[progress], metric=metric, losses={"retention": retention}
    )


def complete(made: EarlyStopper, name: str, metric: float, retention: float) -> None:
    made.report(name, at(50, metric, retention))
    made.complete(name, at(100, metric, retention))


@pytest.mark.parametrize(
    ("retention", "met_before", "pinned", "stopped"),
    [
        (2.6, True, False, True),  # 1.6 above the base, more than three times 0.5
        (2.4, True, False, False),
        (2.6, False, False, False),  # no trial has met the bounds yet: the nearest is wanted
        (2.6, True, True, False),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"pause": True}, {"audit": 1.0}])
def test_early_stopper__stops_what_is_far_above_a_bound(
    retention: float, met_before: bool, pinned: bool, stopped: bool, settings: dict[str, Any]
) -> None:
    made = stopper(**settings)
    complete(made, "first", 3.0, 1.2 if met_before else 9.0)
    if pinned:
        made.pin("t", "a user")
    made.report("t", at(25, 2.5, 9.0))
    decisions = made.report("t", at(50, 2.0, retention))
    assert [(d.rule, d.action) for d in decisions if d.ends_trial] == [("bounds", "stop")] * stopped
    assert made.cohort.trials["t"].flagged_at is None, "it says nothing on the objective: no flag, no audit"


def test_early_stopper__a_rule_stops_no_trial_for_those_that_will_not_meet_the_bounds() -> None:
    made = stopper()
    for i in range(3):
        complete(made, f"forgot{i}", 1.0 + i / 10, 5.0)
    (decision,) = made.report("careful", at(50, 3.0, 1.2))
    assert (decision.action, "no trial has met them" in decision.reason) == ("continue", True)
    made.complete("careful", at(100, 3.0, 1.2))
    (decision,) = made.report("next", at(50, 2.9, 1.2))
    assert (decision.action, "0 of 1 others that do are better" in decision.reason) == ("continue", True)
    made.complete("next", at(100, 2.9, 1.2))
    (decision,) = made.report("last", at(50, 3.1, 1.2))
    assert decision.action == "stop", "both others that meet the bounds are better"
    (decision,) = made.report("over", at(50, 3.1, 1.6))
    assert decision.action == "stop", "it does not meet the bounds itself"


@pytest.mark.parametrize("saved", [False, True])
def test_early_stopper__bounds_hold_after_a_restart_and_in_a_replay(saved: bool) -> None:
    made = stopper()
    complete(made, "first", 3.0, 1.2)
    if saved:
        restored = stopper()
        restored.load_state_dict(made.state_dict())
    else:
        spec = {"search": {"subject_to": {"retention": {"at_most": 0.5, "above": "base"}}}}
        built = LedgerBuilder(spec=spec).score(None, "retention", {"loss": 1.0}, what="validation")
        for name, retention, last in (("first", 1.2, 10), ("t", 2.6, 5)):
            sets = {"retention": {"loss": retention}}
            built.trial(name).steps(name, 5).eval(name, 2.0, sets=sets).cost(name)
            if last == 10:
                built.steps(name, 10).eval(name, 2.0, sets=sets).cost(name).end(name, "completed", 2.0)
        restored = EarlyStopper(rule=None, rungs=[0.5], budget=100, mode="min")
        replayed = replay_state(restored, built.state())
        assert [(d.trial_id, d.rule) for d in replayed if d.ends_trial] == [("t", "bounds")]
        return
    decisions = restored.report("t", at(50, 2.0, 2.6))
    assert [d.rule for d in decisions if d.ends_trial] == ["bounds"]
