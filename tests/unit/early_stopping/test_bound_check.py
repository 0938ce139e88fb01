"""Early stopping in a search with bounds: what is out of reach, and which trials a rule must leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, MedianRule, make_report, replay_state
from sweepft.ledger import base_score

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


# --- bounds on tasks, whose values are costs and noisy ---------------------------------------------------


def at_score(progress: float, metric: float, score: float | None) -> Any:
    losses = {} if score is None else {"gsm": -score}
    return make_report(step=[int(progress)], progress=[progress], metric=metric, losses=losses)


@pytest.mark.parametrize(
    ("base", "noise", "score", "stopped"),
    [
        (0.6, 0.0, 0.44, True),  # 0.16 below the base, more than three times 0.05
        (0.6, 0.0, 0.46, False),
        (0.6, 0.05, 0.44, False),  # within three times the allowance and twice the noise
        (0.6, 0.05, 0.33, True),
        (0.55, 0.0, 0.0, False),  # the base model does not meet the bound: training must improve it
        (0.6, 0.0, None, False),  # not measured at the rung
    ],
)
def test_early_stopper__a_task_is_out_of_reach_by_more_than_its_noise(
    base: float, noise: float, score: float | None, stopped: bool
) -> None:
    made = EarlyStopper(rule=None, rungs=[0.5], budget=100, mode="min", keep_last=0)
    made.set_bounds({"gsm": -0.55}, {"gsm": min(-0.55, -base)}, {"gsm": noise})
    made.report("first", at_score(50, 3.0, 0.6))
    made.complete("first", at_score(100, 3.0, 0.6))
    decisions = made.report("t", at_score(50, 2.0, score))
    assert [(d.rule, d.action) for d in decisions if d.ends_trial] == [("bounds", "stop")] * stopped
    assert all("worse than the base model's" in d.reason for d in decisions if d.ends_trial)


def test_early_stopper__a_task_that_is_not_measured_keeps_its_last_value() -> None:
    made = EarlyStopper(rule=None, rungs=[0.5], budget=100, mode="min", keep_last=0)
    made.set_bounds({"gsm": -0.55}, {"gsm": -0.6})
    made.report("t", at_score(25, 2.0, 0.58))
    made.report("t", at_score(50, 2.0, None))
    assert made.cohort.trials["t"].losses == {"gsm": -0.58}
    restored = EarlyStopper(rule=None, rungs=[0.5], budget=100, mode="min", keep_last=0)
    restored.load_state_dict(made.state_dict())
    assert restored.cohort.trials["t"].losses == {"gsm": -0.58}


def test_replay__decides_on_a_task_as_the_live_sweep_did() -> None:
    gsm = {"task": "gsm", "metric": "acc"}
    bound = {"gsm": {"at_most": 0.05, "below": "base"}}
    built = LedgerBuilder(spec={"objective": {"measure": [gsm]}, "search": {"subject_to": bound}})
    built.score(None, base_score("gsm", True), {"acc": (0.6, 0.01)}, what="measured")
    for name, score, last in (("first", 0.6, 10), ("t", 0.2, 5)):
        tasks = {
            "gsm": {"value": score, "stderr": 0.01, "items": 50, "seconds": 1.0, "higher_is_better": True}
        }
        built.trial(name).steps(name, 5).eval(name, 2.0, tasks=tasks).cost(name)
        if last == 10:
            built.steps(name, 10).eval(name, 2.0, tasks=tasks).cost(name).end(name, "completed", 2.0)
    replayed = replay_state(EarlyStopper(rule=None, rungs=[0.5], budget=100, mode="min"), built.state())
    assert [(d.trial_id, d.rule) for d in replayed if d.ends_trial] == [("t", "bounds")]
