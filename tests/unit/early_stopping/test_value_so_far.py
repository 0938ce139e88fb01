"""Rules judge a trial that counts by its best evaluation by that one, live and from the ledger."""

from __future__ import annotations

import math
from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, replay_state, set_losses, value_so_far
from sweepft.early_stopping.rules import make_rule

NESTED = {
    "objective": 2.5, "eval_sets": {"own": {"loss": 2.5}}, "rung": 0.5,
    "best_objective": 2.0, "best_sets": {"own": {"loss": 2.0}},
}  # fmt: skip
FLAT = {
    "objective": 2.5, "eval_sets/own/loss": 2.5, "rung": 0.5, "best_objective": 2.0, "best_sets/own/loss": 2.0,
}  # fmt: skip


@pytest.mark.parametrize("result", [NESTED, FLAT], ids=["nested", "flat"])
def test_value_so_far__takes_the_place_of_the_last_losses(result: dict[str, Any]) -> None:
    found = value_so_far(result)
    assert (found["objective"], set_losses(found), found["rung"]) == (2.0, {"own": 2.0}, 0.5)
    at_end = {key: value for key, value in result.items() if not key.startswith("best_")}
    assert value_so_far(at_end) == at_end


def sweep_of(trials: dict[str, list[float]], patience: str | None = None) -> LedgerBuilder:
    """Trials evaluated at steps 2, 4, ... of 10; the one named is ended by its patience."""
    sweep = LedgerBuilder(spec={"objective": {"at": "best"}})
    for name, losses in trials.items():
        sweep.trial(name)
        best = math.inf
        for i, loss in enumerate(losses, 1):
            sweep.steps(name, 2 * i).eval(name, loss, counts=loss < best)
            best = min(best, loss)
            if name == patience and i == len(losses):
                sweep.decision(name, "patience", rule="patience")
            sweep.cost(name)
        sweep.end(name, "completed", best)
    return sweep


def test_replay_state__judges_by_the_best_evaluation() -> None:
    """t3 has the lowest loss of all at 40% and is behind the others from 60% on."""
    losses = {f"t{i}": [3.0, 2.9, 2.8, 2.7, 2.6] for i in range(3)} | {"t3": [3.0, 1.0, 3.0, 3.1, 3.2]}
    state = sweep_of(losses).state()
    stopper = EarlyStopper(
        rule=make_rule("median", min_peers=2), rungs=(0.4, 0.6, 0.8), budget=100, mode="min", min_steps=1
    )
    decisions = replay_state(stopper, state)
    assert not [d for d in decisions if d.trial_id == "t3" and d.action == "stop"]
    assert stopper.cohort.finals["t3"] == 1.0


def test_replay_state__patience_completes_a_trial() -> None:
    state = sweep_of({"t0": [3.0, 2.0, 2.1, 2.2], "t1": [3.0, 2.5, 2.4, 2.3, 2.2]}, patience="t0").state()
    trial = state.trials["t0"]
    assert (trial.ended_early_at, trial.objective, trial.ranked) == (8, 2.0, True)
    assert state.trials["t1"].ended_early_at is None
    assert state.leader is trial
    stopper = EarlyStopper(rungs=(0.4, 0.6), budget=100, mode="min")
    replay_state(stopper, state)
    assert stopper.cohort.trials["t0"].status == "completed"
    assert dict(stopper.cohort.finals) == {"t0": 2.0, "t1": 2.2}
