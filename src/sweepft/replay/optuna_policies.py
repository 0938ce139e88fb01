"""Optuna's pruners on recorded runs, through a study in memory.

The Wilcoxon pruner is not among them: it compares paired evaluations of one configuration on many problem
instances, which learning curves are not.
"""

from __future__ import annotations

import warnings

import numpy as np
import optuna

from sweepft.replay.curves import Run, Study
from sweepft.replay.policies import Decision, Policy


class OptunaPolicy(Policy):
    """Any pruner of Optuna as a policy; objectives are reported at each twentieth of the budget."""

    def __init__(self, pruner: optuna.pruners.BasePruner, study: Study, seed: int = 0) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._source, self._pruner = study, pruner
        directions = optuna.study.StudyDirection
        direction = directions.MAXIMIZE if study.mode == "max" else directions.MINIMIZE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.RandomSampler(seed=0)
            # Hyperband draws a trial's bracket from the study's name: it must not be a random one.
            self._study = optuna.create_study(
                study_name=f"replay-{seed}", direction=direction, pruner=pruner, sampler=sampler
            )
        self._trials: dict[str, optuna.Trial] = {}

    def start(self, run: Run) -> None:
        """Asks for a trial."""
        self._trials[run.run_id] = self._study.ask()

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Reports the last objective and asks the pruner."""
        seen = run.metric[start:stop]
        seen = seen[np.isfinite(seen)]
        if not len(seen):
            return "continue"
        trial = self._trials[run.run_id]
        step = round(20 * run.progress[stop - 1] / self._source.budget)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step reported twice
            trial.report(float(seen[-1]), step)
            prune = trial.should_prune()
        if prune:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return "stop"
        return "continue"

    def finish(self, run: Run, start: int) -> None:
        """Reports the final objective; a diverged run failed."""
        trial = self._trials[run.run_id]
        if run.bad_row is None and np.isfinite(run.last_metric):
            self._study.tell(trial, run.last_metric)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def reason(self, run_id: str) -> str:
        """Pruners give no reason."""
        return f"pruned by {type(self._pruner).__name__}"


def make_optuna_policy(name: str, study: Study, seed: int) -> OptunaPolicy:
    """``optuna-median``, ``optuna-percentile`` (best quarter go on) or ``optuna-hyperband``.

    Raises:
        ValueError: Another name.
    """
    pruners = optuna.pruners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        if name == "optuna-median":
            return OptunaPolicy(pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1), study, seed)
        if name == "optuna-percentile":
            return OptunaPolicy(
                pruners.PercentilePruner(25.0, n_startup_trials=4, n_warmup_steps=1), study, seed
            )
        if name == "optuna-hyperband":
            return OptunaPolicy(pruners.HyperbandPruner(min_resource=1, max_resource=20), study, seed)
    raise ValueError(f"rule: Optuna has no such pruner (got {name!r})")
