"""A sweep over seeds: its scheduler knows repeats, live as from the ledger."""

from __future__ import annotations

from types import SimpleNamespace

from support.ledger_builder import LedgerBuilder
from sweepft.driver.scheduler import SweepScheduler
from sweepft.early_stopping import EarlyStopper
from sweepft.early_stopping.from_ledger import replay_state
from sweepft.slot.jobs import TrialJob, to_tune_config
from sweepft.spec import TrainConfig


def test_sweep_scheduler__knows_repeats_live_and_from_ledger() -> None:
    live = SweepScheduler(metric="eval_loss", mode="min", budget=100, min_peers=2, rule="calibrated")
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
