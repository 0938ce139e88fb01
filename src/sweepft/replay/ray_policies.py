"""Ray Tune's own schedulers on recorded runs, without a Ray session.

The scheduler object is Ray's own; it gets stand-ins for trials and the controller with just what schedulers use of
them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from sweepft.early_stopping import Rung
from sweepft.replay.curves import Run, Study
from sweepft.replay.policies import Decision, Policy

_UNITS = 100  # of a full run: HyperBand counts in whole units


class _StandIn:
    """A trial, as far as a scheduler looks at it."""

    is_saving = False

    def __init__(self, run: Run) -> None:
        self.trial_id = run.run_id
        self.config = run.params
        self.status = Trial.RUNNING
        self.last_result: dict[str, Any] = {}

    def __repr__(self) -> str:
        return self.trial_id


class _Controller:
    """A controller, as far as a scheduler calls it."""

    def __init__(self, policy: RayPolicy) -> None:
        self._policy = policy

    def get_trials(self) -> list[_StandIn]:
        return list(self._policy.trials.values())

    def get_live_trials(self) -> list[_StandIn]:
        return [t for t in self._policy.trials.values() if t.status not in (Trial.TERMINATED, Trial.ERROR)]

    def stop_trial(self, trial: _StandIn) -> None:
        """As Ray's controller: a paused or pending trial is removed from its scheduler."""
        if trial.status in (Trial.PAUSED, Trial.PENDING):
            self._policy.scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED


class RayPolicy(Policy):
    """Any of Ray's schedulers as a policy.

    Args:
        scheduler: The scheduler; its ``time_attr`` must be ``t``, which runs to 100 at the study's budget.
        study: The runs.
        joined: All trials join at the start, as bracket schedulers expect.
    """

    rungs = tuple(Rung("fraction", i / _UNITS) for i in range(1, _UNITS))

    def __init__(self, scheduler: Any, study: Study, *, joined: bool = False) -> None:
        self.scheduler, self._study = scheduler, study
        self.trials: dict[str, _StandIn] = {}
        self._controller = _Controller(self)
        self._metric: dict[str, float] = {}
        scheduler.set_search_properties("m", study.mode)
        if joined:
            for run in study.runs:
                self._join(run).status = Trial.PENDING

    def _join(self, run: Run) -> _StandIn:
        trial = self.trials[run.run_id] = _StandIn(run)
        self.scheduler.on_trial_add(self._controller, trial)
        return trial

    def start(self, run: Run) -> None:
        """Adds it, if it has not joined."""
        if run.run_id not in self.trials:
            self._join(run)
        self.trials[run.run_id].status = Trial.RUNNING

    def _result(self, run: Run, start: int, stop: int, final: bool) -> dict[str, Any] | None:
        seen = run.metric[start:stop]
        seen = seen[np.isfinite(seen)]
        if len(seen):
            self._metric[run.run_id] = float(seen[-1])
        if final and np.isfinite(run.last_metric):
            self._metric[run.run_id] = run.last_metric
        if run.run_id not in self._metric:
            return None
        t = run.progress[stop - 1] / self._study.budget * _UNITS
        return {"t": float(t + 1e-9), "m": self._metric[run.run_id], "training_iteration": stop}

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Asks the scheduler; results before the first objective are not shown to it."""
        trial = self.trials[run.run_id]
        trial.status = Trial.RUNNING
        result = self._result(run, start, stop, final=False)
        if result is None:
            return "continue"
        trial.last_result = result
        decision = self.scheduler.on_trial_result(self._controller, trial, result)
        if decision == TrialScheduler.STOP:
            self.scheduler.on_trial_complete(self._controller, trial, result)
            trial.status = Trial.TERMINATED
            return "stop"
        if decision == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
            return "pause"
        return "continue"

    def finish(self, run: Run, start: int) -> None:
        """Reports the end."""
        trial = self.trials[run.run_id]
        trial.last_result = self._result(run, start, len(run.progress), final=True) or trial.last_result
        self.scheduler.on_trial_complete(self._controller, trial, trial.last_result)
        trial.status = Trial.TERMINATED

    def resume(self, free: int) -> Sequence[str]:
        """Paused trials that a bracket resumes."""
        names = []
        while any(t.status == Trial.PAUSED for t in self.trials.values()):
            trial = self.scheduler.choose_trial_to_run(self._controller)
            if trial is None or trial.status != Trial.PAUSED:
                break
            trial.status = Trial.RUNNING
            names.append(trial.trial_id)
        return names

    def reason(self, run_id: str) -> str:
        """Ray's schedulers give no reason."""
        return f"stopped by {type(self.scheduler).__name__}"


def make_ray_policy(name: str, study: Study, seed: int) -> RayPolicy:
    """``ray-asha``, ``ray-asha4``, ``ray-hyperband`` or ``ray-median``; a full run is t = 100.

    Raises:
        ValueError: Another name.
    """
    np.random.seed(seed)
    random.seed(seed)
    if name in ("ray-asha", "ray-asha4"):
        eta = 4 if name.endswith("4") else 3
        return RayPolicy(ASHAScheduler("t", max_t=101, grace_period=4, reduction_factor=eta), study)
    if name == "ray-hyperband":
        return RayPolicy(HyperBandScheduler("t", max_t=_UNITS, reduction_factor=3), study, joined=True)
    if name == "ray-median":
        return RayPolicy(MedianStoppingRule("t", grace_period=5, min_samples_required=3), study)
    raise ValueError(f"rule: Ray has no such scheduler (got {name!r})")
