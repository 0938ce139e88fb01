"""What stops runs in a replay: the early stopper itself, and baselines that need nothing but the recorded runs.

`Policy` is the interface. Adapters of Ray's schedulers and Optuna's pruners have modules of their own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, Literal

from sweepft.early_stopping import EarlyStopper, Rung
from sweepft.replay.curves import Run, Study

Decision = Literal["continue", "stop", "pause"]

UNKNOWN: Final = object()
"""A hyperparameter that is no plain data: a trial that has it repeats no other."""


class Policy:
    """Decides on the runs of one replay; a fresh one is made for each.

    Attributes:
        rungs: Where runs must report, besides every 5% of the budget.
    """

    rungs: Sequence[Rung] = ()

    def start(self, run: Run) -> None:
        """A run starts."""

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Rows ``start`` to ``stop`` (not included) have been reported; the run is not over."""
        raise NotImplementedError

    def finish(self, run: Run, start: int) -> None:
        """The run reached its end, with its rows from ``start`` on."""

    def resume(self, free: int) -> Sequence[str]:
        """Paused runs to resume now on that many free slots, in order."""
        return ()

    def reason(self, run_id: str) -> str:
        """Why a run was stopped."""
        raise NotImplementedError


class EarlyStopperPolicy(Policy):
    """The object that drives live sweeps, on recorded runs.

    Args:
        early_stopper: A fresh one.
        runs: Number of runs: paused runs resume once all have started.
    """

    def __init__(self, early_stopper: EarlyStopper, runs: int = 0) -> None:
        self.early_stopper, self.rungs = early_stopper, early_stopper.rungs
        self._to_start = runs
        self._reasons: dict[str, str] = {}
        self._under_way: set[str] = set()

    def start(self, run: Run) -> None:
        """Adds it."""
        self._to_start -= 1
        self._under_way.add(run.run_id)
        unknown = {} if run.params_known else {"unknown": UNKNOWN}
        self.early_stopper.add(run.run_id, {**run.params, **unknown})

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Asks the early stopper."""
        decisions = self.early_stopper.report(run.run_id, run.report(start, stop))
        if not decisions or not decisions[-1].ends_trial:
            return "continue"
        self._reasons[run.run_id] = decisions[-1].reason
        self._under_way.discard(run.run_id)
        return "pause" if decisions[-1].action == "pause" else "stop"

    def resume(self, free: int) -> Sequence[str]:
        """As in a live sweep: the likeliest paused runs that are worth their price."""
        if self._to_start > 0 or free == 0:
            return ()
        paused = (p for p in self.early_stopper.paused_trials() if p.worth)
        back = [p.trial_id for p in paused if p.trial_id not in self._under_way][:free]
        self._under_way.update(back)
        return back

    def finish(self, run: Run, start: int) -> None:
        """Reports the last objective on validation data; the result on test data is not known to a live sweep."""
        last = run.report(start, len(run.progress))
        final = run.last_metric if math.isfinite(run.last_metric) else None
        self.early_stopper.complete(run.run_id, last, final=final)

    def reason(self, run_id: str) -> str:
        """The decision's reason."""
        return self._reasons[run_id]


class RandomPolicy(Policy):
    """Stops a given share of the runs at a rung at random: what saving alone is worth."""

    def __init__(self, study: Study, *, share: float, rung: float, seed: int) -> None:
        rng = random.Random(seed)
        self._stopped = {r.run_id for r in study.runs if rng.random() < share}
        self.rungs = (Rung("fraction", rung),)
        self._threshold = self.rungs[0].threshold(study.budget)

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Stops the runs drawn."""
        reached = run.progress[stop - 1] >= self._threshold
        return "stop" if reached and run.run_id in self._stopped else "continue"

    def reason(self, run_id: str) -> str:
        """Chance."""
        return "stopped at random"


class OraclePolicy(RandomPolicy):
    """Knows all results: only the best run passes the rung."""

    def __init__(self, study: Study, *, rung: float) -> None:
        super().__init__(study, share=0.0, rung=rung, seed=0)
        best = study.runs[int(study.values.argmax())].run_id
        self._stopped = {r.run_id for r in study.runs} - {best}

    def reason(self, run_id: str) -> str:
        """Hindsight."""
        return "not the best run"


class ForesightPolicy(Policy):
    """Knows the result of each run that has reached its rung, but not of runs to come: the most any rule could save.

    Args:
        study: The runs.
        rung: Share of the budget that a run must report before its result is known.
        keep: From there on, a run is stopped at a report once so many better ones are known.
    """

    def __init__(self, study: Study, *, rung: float, keep: int = 1) -> None:
        self.rungs = (Rung("fraction", rung),)
        self._threshold, self._keep = self.rungs[0].threshold(study.budget), keep
        self._values = dict(zip((r.run_id for r in study.runs), study.values.tolist(), strict=True))
        self._known: dict[str, float] = {}

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Stops a run that enough known ones beat."""
        if run.progress[stop - 1] < self._threshold:
            return "continue"
        own = self._known[run.run_id] = self._values[run.run_id]
        return "stop" if sum(v > own for v in self._known.values()) >= self._keep else "continue"

    def finish(self, run: Run, start: int) -> None:
        """Its result is known."""
        self._known[run.run_id] = self._values[run.run_id]

    def reason(self, run_id: str) -> str:
        """Foresight."""
        return "worse than enough of the runs seen so far"
