"""The pruner on the databases that people keep Optuna studies in."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest

from support.databases import SERVERS, database
from sweepft.pruners import EarlyDynamicsPruner, observe

TRIALS, STEPS, EVERY = 100, 2000, 100
_TEXT_BYTES = 65_535  # of MariaDB's column for an attribute


def curve(rate: float, step: int) -> float:
    """A loss that falls to a floor given by the rate."""
    return abs(math.log10(rate) + 3) + 3 * math.exp(-step / 300)


def objective(trial: optuna.Trial) -> float:
    """2,000 observations, and an evaluation after each hundredth."""
    rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    for step in range(1, STEPS + 1):
        loss = curve(rate, step)
        observe(
            trial,
            step,
            loss=loss + 0.01 * math.sin(step),
            grad_norm=1 / step,
            metric=loss if step % EVERY == 0 else None,
        )
        if trial.should_prune():
            raise optuna.TrialPruned
    return curve(rate, STEPS)


def run(storage: optuna.storages.BaseStorage) -> optuna.Study:
    """A study with all trials; the same whatever the storage."""
    study = optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=EarlyDynamicsPruner(budget=STEPS),
    )
    study.optimize(objective, n_trials=TRIALS)
    return study


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")  # Optuna's, of experimental features
@pytest.mark.parametrize("kind", SERVERS)
def test_pruner__on_a_database_decides_as_in_memory(kind: str, tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with database(kind, tmp_path / "server.log") as address:
        storage = optuna.storages.RDBStorage(address)
        trials = run(storage).trials
        storage.remove_session()
        storage.engine.dispose()
    in_memory = run(optuna.storages.InMemoryStorage()).trials
    assert [(t.state, t.last_step) for t in trials] == [(t.state, t.last_step) for t in in_memory]
    pruned = [t for t in trials if t.state is optuna.trial.TrialState.PRUNED]
    assert 0.3 * TRIALS < len(pruned) < TRIALS
    sizes = [len(str(v)) for t in trials for v in t.system_attrs.values()]
    assert max(sizes) < _TEXT_BYTES / 8, "bounded, whatever the number of observations"
