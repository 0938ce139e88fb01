"""A sweep over seeds: its scheduler knows repeats, live as from the ledger."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from support.ledger_builder import LedgerBuilder
from support.specs import spec_dict
from sweepft.driver.build import build_scheduler
from sweepft.driver.scheduler import SweepScheduler
from sweepft.early_stopping import EarlyStopper, PriorSweeps
from sweepft.early_stopping.from_ledger import replay_state
from sweepft.slot.jobs import TrialJob, to_tune_config
from sweepft.spec import TrainConfig, from_dict


def test_sweep_scheduler__knows_repeats_live_and_from_ledger() -> None:
    live = SweepScheduler(metric="objective", mode="min", budget=100, min_peers=2, rule="calibrated")
    ledger = LedgerBuilder()
    for i, (rate, seed) in enumerate([(1e-4, 0), (1e-4, 1), (2e-4, 0)]):
        swept = {"learning_rate": rate, "seed": seed}
        train = TrainConfig.from_dict(
            {"batch_size": 8, "micro_batch": 4, "budget": {"samples": 100}, **swept}, 100
        )
        job = TrialJob(f"t{i}", i, swept, train)
        live.on_trial_add(None, SimpleNamespace(trial_id=f"ray{i}", config=to_tune_config(job)))
        ledger.trial(f"t{i}", params=swept, train_config=train.to_dict())
    from_ledger = EarlyStopper(rule=None, rungs=(0.1,), budget=100, mode="min")
    replay_state(from_ledger, ledger.state())
    for early_stopper in (live.early_stopper, from_ledger):
        first, repeat, other = (t.configuration for t in early_stopper.cohort.trials.values())
        assert first is not None
        assert first == repeat != other


@pytest.mark.parametrize("on", [True, False])
def test_build_scheduler__the_spec_switches_the_divergence_check(on: bool) -> None:
    spec = from_dict(spec_dict(early_stop={"divergence_check": on}))
    scheduler = build_scheduler(spec, 100, PriorSweeps())
    assert scheduler.early_stopper.divergence_check is on


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5])
def test_sweep_scheduler__a_final_loss_that_is_not_finite_is_a_divergence(value: float) -> None:
    scheduler = SweepScheduler(metric="objective", mode="min", budget=100)
    train = TrainConfig.from_dict(
        {"batch_size": 8, "micro_batch": 4, "learning_rate": 1e-4, "budget": {"samples": 100}}, 100
    )
    trial = SimpleNamespace(trial_id="ray0", config=to_tune_config(TrialJob("t0", 0, {}, train)))
    scheduler.on_trial_add(None, trial)
    result = {
        "samples_seen": 100,
        "budget_samples": 100,
        "step": 13,
        "loss": 1.0,
        "objective": value,
        "done": True,
    }
    scheduler.on_trial_complete(None, trial, result)
    record = scheduler.early_stopper.cohort.trials["t0"]
    assert (record.status, record.final) == (("completed", 1.5) if value == 1.5 else ("diverged", None))


@pytest.mark.parametrize(("origin", "pinned"), [("start_with", True), ("sampler", False)])
def test_sweep_scheduler__baseline_is_trained_to_its_end_live_as_from_the_ledger(
    origin: str, pinned: bool
) -> None:
    live = SweepScheduler(metric="objective", mode="min", budget=100)
    train = TrainConfig.from_dict(
        {"batch_size": 8, "micro_batch": 4, "learning_rate": 1e-4, "budget": {"samples": 100}}, 100
    )
    ledger = LedgerBuilder()
    for i in range(2):
        job = TrialJob(f"t{i}", i, {}, train, origin=origin)
        live.on_trial_add(None, SimpleNamespace(trial_id=f"ray{i}", config=to_tune_config(job)))
        ledger.trial(f"t{i}", origin=origin)
    restored = EarlyStopper(rule=None, rungs=(0.1,), budget=100, mode="min")
    replay_state(restored, ledger.state())
    for early_stopper in (live.early_stopper, restored):
        assert early_stopper.state_dict()["pinned"] == (
            {"t0": "the spec, as the baseline"} if pinned else {}
        ), "of several entries of start_with the first alone"
