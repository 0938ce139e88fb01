"""An Optuna study without Ray, pruned by the same rules.

Run it: ``python docs/examples/optuna_pruner.py``.
"""

from __future__ import annotations

import math

import optuna

from sweepft.pruners import EarlyDynamicsPruner, observe

STEPS = 40


def objective(trial: optuna.Trial) -> float:
    """A stand-in for training: the loss falls towards a floor that depends on the learning rate."""
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    floor = 1.0 + 0.2 * abs(math.log10(rate) + 3.0)
    value = math.nan
    for step in range(1, STEPS + 1):
        value = floor + 2.0 * math.exp(-step / 8)
        observe(trial, step, loss=value, grad_norm=1.0 / step, metric=value if step % 4 == 0 else None)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def main() -> None:
    """Forty trials."""
    pruner = EarlyDynamicsPruner(budget=STEPS, rungs=(0.1, 0.25, 0.5))
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=40)
    states = [t.state.name for t in study.trials]
    print(f"completed={states.count('COMPLETE')} pruned={states.count('PRUNED')} best={study.best_value:.3f}")


if __name__ == "__main__":
    main()
