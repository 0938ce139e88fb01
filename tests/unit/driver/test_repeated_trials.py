"""A sweep over seeds: its scheduler knows repeats, live as from the ledger."""

from __future__ import annotations

from types import SimpleNamespace

from support.ledger_builder import LedgerBuilder
from sweepft.driver.control import SweepScheduler
from sweepft.early_stopping import EarlyStopper
from sweepft.early_stopping.from_ledger import replay_state


def test_trials_of_one_configuration_and_several_seeds_are_repeats_live_and_from_the_ledger() -> None:
    live = SweepScheduler(metric="eval_loss", mode="min", budget=100, min_peers=2, rule="calibrated")
    ledger = LedgerBuilder()
    for i, (rate, seed) in enumerate([(1e-4, 0), (1e-4, 1), (2e-4, 0)]):
        swept = {"learning_rate": rate, "seed": seed}
        about = {"trial_id": f"t{i}", "number": i, "origin": "sampler", "resumed": False, "study_number": i}
        config = {
            **about,
            "params": swept,
            "train_config": SimpleNamespace(to_dict=lambda swept=swept: {"batch_size": 8, **swept}),
            "reported_samples": 0,
            "faults": 0,
        }
        live.on_trial_add(None, SimpleNamespace(trial_id=f"ray{i}", config=config))
        train_config = {"batch_size": 8, **swept}
        ledger.trial(f"t{i}", params=swept, train_config=train_config)
    told = EarlyStopper(rule=None, rungs=(0.1,), budget=100, mode="min")
    replay_state(told, ledger.state())
    for early_stopper in (live.early_stopper, told):
        first, repeat, other = (t.configuration for t in early_stopper.cohort.trials.values())
        assert first is not None
        assert first == repeat != other
