"""Judges that need nothing but sweepft's own rules: the referee itself, and the yardsticks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from sweepft.early_stopping import EarlyStopper, Rung
from sweepft.replay.clock import Decision
from sweepft.replay.curves import Run, Study


class _NoPauses:
    def resume(self, free: int) -> Sequence[str]:
        """Nothing is ever paused."""
        return ()


class EarlyStopperPolicy:
    """The object that drives live sweeps, fed with recorded runs.

    Args:
        referee: Fresh.
        runs: How many runs there are: what is parked comes back once all have begun.
    """

    def __init__(self, early_stopper: EarlyStopper, runs: int = 0) -> None:
        self.early_stopper = early_stopper
        self._to_begin = runs
        self._reasons: dict[str, str] = {}
        self._under_way: set[str] = set()

    @property
    def rungs(self) -> Sequence[Rung]:
        """The early stopper's."""
        return self.early_stopper.rungs

    def start(self, run: Run) -> None:
        """Add it."""
        self._to_begin -= 1
        self._under_way.add(run.run_id)
        self.early_stopper.add(run.run_id, run.params)

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Judge what was reported."""
        decisions = self.early_stopper.report(run.run_id, run.report(start, stop))
        if decisions and decisions[-1].ends_trial:
            self._reasons[run.run_id] = decisions[-1].reason
            self._under_way.discard(run.run_id)
            return "pause" if decisions[-1].action == "pause" else "stop"
        return "continue"

    def resume(self, free: int) -> Sequence[str]:
        """Parked runs that come back to free slots, as in a live sweep: the likeliest that are worth their price."""
        if self._to_begin > 0 or free == 0:
            return ()
        back = [
            p.trial_id
            for p in self.early_stopper.paused_trials()
            if p.worth and p.trial_id not in self._under_way
        ]
        self._under_way.update(back[:free])
        return back[:free]

    def finish(self, run: Run, start: int) -> None:
        """Tell the final objective."""
        last = run.report(start, len(run.progress))
        final = run.final if math.isfinite(run.final) else None
        self.early_stopper.complete(run.run_id, last, final=final)

    def reason(self, run_id: str) -> str:
        """The verdict's sentence."""
        return self._reasons[run_id]


class RandomPolicy(_NoPauses):
    """Stops a given share of the runs at a window, blindly: what saving alone is worth."""

    def __init__(self, study: Study, *, share: float, rung: float, seed: int) -> None:
        rng = random.Random(seed)
        self._doomed = {r.run_id for r in study.runs if rng.random() < share}
        self.rungs = (Rung("fraction", rung),)
        self._threshold = self.rungs[0].threshold(study.budget)

    def start(self, run: Run) -> None:
        """Nothing to note."""

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Stop the doomed."""
        reached = run.progress[stop - 1] >= self._threshold
        return "stop" if reached and run.run_id in self._doomed else "continue"

    def finish(self, run: Run, start: int) -> None:
        """Nothing to note."""

    def reason(self, run_id: str) -> str:
        """A coin."""
        return "stopped by lot"


class OraclePolicy(RandomPolicy):
    """Knows the outcome: only the best run passes the window."""

    def __init__(self, study: Study, *, rung: float) -> None:
        super().__init__(study, share=0.0, rung=rung, seed=0)
        best = study.runs[int(study.values.argmax())].run_id
        self._doomed = {r.run_id for r in study.runs} - {best}

    def reason(self, run_id: str) -> str:
        """Hindsight."""
        return "not the best, in hindsight"


class ForesightPolicy(_NoPauses):
    """Knows how each run that has come to its window will end, but nothing of runs to come: what any rule could save.

    Args:
        study: The runs.
        window: Share of the budget that a run must show before its end is foreseen.
        keep: At each report from there on, a run is stopped once so many better ones are known.
    """

    def __init__(self, study: Study, *, rung: float, keep: int = 1) -> None:
        self.rungs = (Rung("fraction", rung),)
        self._threshold, self._keep = self.rungs[0].threshold(study.budget), keep
        self._values = dict(zip((r.run_id for r in study.runs), study.values.tolist(), strict=True))
        self._known: dict[str, float] = {}

    def start(self, run: Run) -> None:
        """Nothing to note."""

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Stop a run that enough others are known to beat."""
        if run.progress[stop - 1] < self._threshold:
            return "continue"
        own = self._known[run.run_id] = self._values[run.run_id]
        return "stop" if sum(v > own for v in self._known.values()) >= self._keep else "continue"

    def finish(self, run: Run, start: int) -> None:
        """Its end is known."""
        self._known[run.run_id] = self._values[run.run_id]

    def reason(self, run_id: str) -> str:
        """Foresight."""
        return "beaten, as foreseen, by enough of the runs seen by then"
