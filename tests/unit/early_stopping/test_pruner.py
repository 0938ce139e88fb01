"""The rules as an Optuna pruner, in real studies."""

from __future__ import annotations

import math

import optuna
import pytest

from sweepft.pruners import EarlyDynamicsPruner, observe

STATES = optuna.trial.TrialState


def run(
    pruner: EarlyDynamicsPruner, direction: str = "minimize", trials: int = 30, storage: str | None = None
):  # type: ignore[no-untyped-def]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=sampler, storage=storage)
    sign = 1.0 if direction == "minimize" else -1.0

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        for step in range(1, 21):
            value = x + 2.0 / step
            observe(trial, step, metric=sign * value if step % 2 == 0 else None, loss=value, grad_norm=1.0)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * x

    study.optimize(objective, n_trials=trials)
    return study


@pytest.mark.parametrize("rule", ["calibrated", "median", "asha"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_pruner__prunes_poor_trials_and_keeps_the_best(rule: str, direction: str) -> None:
    study = run(EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.5), rule=rule), direction)
    states = [t.state for t in study.trials]
    assert states.count(STATES.PRUNED) > 8
    best = min(study.trials, key=lambda t: t.params["x"])
    assert best.state is STATES.COMPLETE
    assert study.best_trial.number == best.number
    pruned = [t.params["x"] for t in study.trials if t.state is STATES.PRUNED]
    assert min(pruned) > sorted(t.params["x"] for t in study.trials)[2]


def test_pruner__a_new_process_continues_from_the_storage(tmp_path) -> None:  # type: ignore[no-untyped-def]
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = run(EarlyDynamicsPruner(budget=20, rungs=(0.1,), rule="median"), trials=10, storage=storage)
    fresh = EarlyDynamicsPruner(budget=20, rungs=(0.1,), rule="median")
    again = optuna.load_study(study_name=study.study_name, storage=storage, pruner=fresh)
    trial = again.ask()
    trial.suggest_float("x", 0, 1)
    observe(trial, 2, metric=99.0, loss=99.0)
    assert trial.should_prune()
    assert fresh.decisions[-1].evidence["peers"] == 10


def test_pruner__judges_again_between_rungs() -> None:
    study = optuna.create_study(pruner=EarlyDynamicsPruner(budget=20, rungs=(0.1,)))
    first = study.ask()
    observe(first, 2, metric=9.0, loss=9.0)
    assert not first.should_prune()
    for i in range(8):
        other = study.ask()
        observe(other, 2, metric=1.0 + i / 10, loss=1.0 + i / 10)
    observe(first, 3, loss=9.0)
    assert first.should_prune()


def test_pruner__does_not_prune_an_audited_trial() -> None:
    study = run(EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.5), rule="median", audit=1.0))
    assert all(t.state is STATES.COMPLETE for t in study.trials)


@pytest.mark.parametrize("kw", [{"loss": math.nan}, {"loss": math.inf}, {"metric": math.nan}])
def test_pruner__prunes_what_is_not_finite_at_once(kw: dict[str, float]) -> None:
    study = optuna.create_study(pruner=EarlyDynamicsPruner(budget=20, rungs=(0.5,), rule="none"))
    trial = study.ask()
    observe(trial, 1, loss=1.0)
    assert not trial.should_prune()
    observe(trial, 2, **kw)
    assert trial.should_prune()
