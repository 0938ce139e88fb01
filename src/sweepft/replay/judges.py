"""Judges that need nothing but sweepft's own rules: the referee itself, and the yardsticks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from sweepft.replay.curves import Run, Study
from sweepft.replay.engine import Decision
from sweepft.rules import Referee

__all__ = ["OracleJudge", "RandomJudge", "RefereeJudge"]


class _NoPauses:
    def resume(self) -> Sequence[str]:
        """Nothing is ever paused."""
        return ()


class RefereeJudge(_NoPauses):
    """The object that drives live sweeps, fed with recorded runs."""

    def __init__(self, referee: Referee) -> None:
        self.referee = referee
        self._reasons: dict[str, str] = {}

    def marks(self, study: Study) -> Sequence[float]:
        """The referee's windows."""
        return [
            w.value * study.budget if w.kind == "fraction" else w.value
            for w in self.referee.windows
            if w.kind != "steps"
        ]

    def start(self, run: Run) -> None:
        """Add it."""
        self.referee.add(run.run_id, run.config)

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Judge what was reported."""
        verdicts = self.referee.report(run.run_id, run.report(start, stop))
        if verdicts and verdicts[-1].ends_trial:
            self._reasons[run.run_id] = verdicts[-1].reason
            return "stop"
        return "continue"

    def finish(self, run: Run, start: int) -> None:
        """Tell the final objective."""
        last = run.report(start, len(run.progress))
        final = run.final if math.isfinite(run.final) else None
        self.referee.complete(run.run_id, last, final=final)

    def reason(self, run_id: str) -> str:
        """The verdict's sentence."""
        return self._reasons[run_id]


class RandomJudge(_NoPauses):
    """Stops a given share of the runs at a window, blindly: what saving alone is worth."""

    def __init__(self, study: Study, *, share: float, window: float, seed: int) -> None:
        rng = random.Random(seed)
        self._doomed = {r.run_id for r in study.runs if rng.random() < share}
        self._mark = window * study.budget

    def marks(self, study: Study) -> Sequence[float]:
        """Its one window."""
        return [self._mark]

    def start(self, run: Run) -> None:
        """Nothing to note."""

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Stop the doomed."""
        reached = run.progress[stop - 1] >= self._mark - 1e-9
        return "stop" if reached and run.run_id in self._doomed else "continue"

    def finish(self, run: Run, start: int) -> None:
        """Nothing to note."""

    def reason(self, run_id: str) -> str:
        """A coin."""
        return "stopped by lot"


class OracleJudge(RandomJudge):
    """Knows the outcome: only the best run passes the window."""

    def __init__(self, study: Study, *, window: float) -> None:
        super().__init__(study, share=0.0, window=window, seed=0)
        best = study.runs[int(study.values.argmax())].run_id
        self._doomed = {r.run_id for r in study.runs} - {best}

    def reason(self, run_id: str) -> str:
        """Hindsight."""
        return "not the best, in hindsight"
