"""Tune's main loop on a virtual clock: any Ray searcher with any Ray scheduler, without a Ray session.

Searcher, scheduler and callback are those of a live sweep, sweepft's or Ray's own. They are called with the arguments
and in the order of Tune's controller. Only the slots are simulated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.simulation.trainable import Playback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils.util import flatten_dict

from sweepft.replay.clock import run_on_slots


class Clock:
    """Virtual seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0

    def elapsed(self) -> float:
        """The virtual time, in place of a monotonic clock."""
        return self.now


class Meter:
    """CPU seconds of this thread by part of the driver. The clock is read only at a change of part, to save time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._part = "play"
        self._since = time.thread_time()

    def now(self, part: str) -> None:
        """Count the time from here on as this part's."""
        if part != self._part:
            moment = time.thread_time()
            self.seconds[self._part] = self.seconds.get(self._part, 0.0) + moment - self._since
            self._part, self._since = part, moment


class VirtualTrial:
    """The attributes of a Tune trial that searchers, schedulers and callbacks use."""

    is_saving = False

    def __init__(self, trial_id: str, config: dict[str, Any], playback: Playback) -> None:
        self.trial_id = trial_id
        self.config = config
        self.playback = playback
        self.status = Trial.RUNNING
        self.last_result: dict[str, Any] = {}

    def __repr__(self) -> str:
        return self.trial_id


class VirtualTuner:
    """Runs trials until the searcher has finished.

    Args:
        searcher: Proposes trials.
        scheduler: Decides on their results.
        play: Makes a trial from its name, Tune's config, its slot and whether the slot is warm.
        slots: Concurrent trials.
        callback: Called like a Tune callback; None without one.
        until: Seconds after which no trial starts or reports; None for no end.
        after: Called after each trial that has ended.
        clock: Set to the virtual time.

    Attributes:
        meter: CPU seconds of the driver.
    """

    def __init__(
        self,
        searcher: Searcher,
        scheduler: TrialScheduler,
        play: Callable[[str, Mapping[str, Any], str, bool], Playback],
        *,
        slots: int,
        callback: Any = None,
        until: float | None = None,
        after: Callable[[VirtualTrial], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.meter = Meter()
        self._searcher, self._scheduler, self._callback = searcher, scheduler, callback
        self._play, self._slots, self._until, self._after = play, slots, until, after
        self._count = 0
        self._warm: set[int] = set()
        self._live: dict[str, VirtualTrial] = {}
        self._over = False

    def get_trials(self) -> list[VirtualTrial]:
        """The running trials, which a scheduler may request from the controller."""
        return list(self._live.values())

    get_live_trials = get_trials

    def fit(self) -> float:
        """Run to the end; returns the virtual duration in seconds."""
        seconds = run_on_slots(self._slots, self._begin, self._report)
        self.meter.now("play")
        return seconds

    def _begin(self, clock: float, slot: int) -> tuple[VirtualTrial, float] | None:
        self.clock.now = clock
        if self._over or (self._until is not None and clock >= self._until):
            return None
        name = f"v{self._count:06d}"
        self.meter.now("propose")
        config = self._searcher.suggest(name)
        if config is None or config == Searcher.FINISHED:
            self._over = config is not None
            return None
        self._count += 1
        self.meter.now("play")
        trial = VirtualTrial(name, config, self._play(name, config, str(slot), slot in self._warm))
        self._warm.add(slot)
        self._live[name] = trial
        self.meter.now("judge")
        self._scheduler.on_trial_add(self, trial)
        if self._callback is not None:
            self.meter.now("record")
            self._callback.on_trial_start(0, [], trial)
        return trial, trial.playback.wait

    def _report(self, trial: VirtualTrial, clock: float) -> float | None:
        self.clock.now = clock
        if self._until is not None and clock > self._until:
            return None
        self.meter.now("play")
        result = trial.playback.report()
        flat = flatten_dict(result)
        decision = TrialScheduler.STOP
        if not result["done"]:
            self.meter.now("judge")
            decision = self._scheduler.on_trial_result(self, trial, flat)
        if decision == TrialScheduler.STOP:
            result["done"] = True
        else:
            self.meter.now("tell")
            self._searcher.on_trial_result(trial.trial_id, flat)
        if self._callback is not None:
            self.meter.now("record")
            self._callback.on_trial_result(0, [], trial, result)
        trial.last_result = result
        if decision != TrialScheduler.STOP:
            return trial.playback.wait
        self._complete(trial)
        return None

    def _complete(self, trial: VirtualTrial) -> None:
        flat = flatten_dict(trial.last_result)
        self.meter.now("judge")
        self._scheduler.on_trial_complete(self, trial, flat)
        self.meter.now("tell")
        self._searcher.on_trial_complete(trial.trial_id, flat)
        if self._callback is not None:
            self.meter.now("record")
            self._callback.on_trial_complete(0, [], trial)
        self.meter.now("play")
        trial.status = Trial.TERMINATED
        del self._live[trial.trial_id]
        if self._after is not None:
            self._after(trial)
