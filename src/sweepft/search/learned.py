"""What a sampler learns from in a long sweep: the best trials, the latest ones, and those under way.

One idea: TPE's time for a proposal grows with the trials it looks at, and past a few hundred the rest tells it little:
its model of good configurations is made of the 25 best, the other one weighs trials by how late they are. Which trials
these are is a function of the study, so that a resumed sweep proposes what the unbroken one would have. Up to `LATEST`
finished trials and `UNDER_WAY` slots nothing is left out.
"""

from __future__ import annotations

from bisect import insort
from typing import Final

from optuna.trial import FrozenTrial, TrialState

__all__ = ["BEST", "LATEST", "UNDER_WAY", "Learned"]

LATEST: Final = 250
BEST: Final = 50
UNDER_WAY: Final = 100


class Learned:
    """Finished trials worth learning from.

    Args:
        latest: How many of the latest, by number; None for all.
        best: How many of the best completed ones.
    """

    def __init__(self, latest: int | None = LATEST, best: int = BEST) -> None:
        self._latest, self._best_count = latest, best
        self._finished: list[tuple[int, FrozenTrial]] = []
        self._best: list[tuple[float, int, FrozenTrial]] = []

    def add(self, trial: FrozenTrial) -> None:
        """Take a trial that has ended; failed ones teach nothing."""
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        insort(self._finished, (trial.number, trial))
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            insort(self._best, (trial.value, trial.number, trial))
            del self._best[self._best_count :]

    def trials(self) -> list[FrozenTrial]:
        """These trials, by number."""
        if self._latest is None or len(self._finished) <= self._latest:
            return [trial for _, trial in self._finished]
        latest = self._finished[-self._latest :]
        earlier = sorted((n, trial) for _, n, trial in self._best if n < latest[0][0])
        return [trial for _, trial in (*earlier, *latest)]
