"""How far signals may be trusted before any trial has ended: from the signals alone.

Two things show it. A signal whose ranks jump from window to window is mostly noise. And where training loss and
held-out objective order the trials differently, at most one of them can be right: the loss counts as far as, and in
the direction in which, it goes with the objective, and less is known of how trials will end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sweepft.rules.cohort import Cohort
from sweepft.rules.configuration import varies
from sweepft.rules.signals import SIGNALS, signal_table
from sweepft.rules.windows import Window

__all__ = ["Agreement", "relative_trust", "steadiness"]

Floats = NDArray[np.float64]
_STEADY: Final = np.array([0.85, 0.93, 0.90])  # prior rank persistence of the signals from window to window
_STEADY_WORTH: Final = 5.0  # trials that it is worth
_LEAST_STEADY: Final = 0.2  # no more than a fivefold correction for noise
_AGREED: Final = 0.85  # from this correlation of the two rankings on they agree in full
_AGREED_WORTH: Final = 12.0  # trials that the prior, that they do, is worth
_SHIFTED: Final = 0.4  # prior where hyperparameters vary that shift the training loss itself


def steadiness(
    cohort: Cohort, window: Window, names: Sequence[str], scores: Floats, batch_key: str
) -> Floats:
    """Rank correlation of each of `SIGNALS` with itself at the window before.

    Args:
        cohort: The sweep.
        window: Where the trials are.
        names: Trials at the window.
        scores: (n, k) their signals there.
        batch_key: Config key of the batch size.
    """
    steady = _STEADY.copy()
    earlier = [w for w in cohort.windows() if w.kind == window.kind and w.value < window.value]
    if earlier:
        before = max(earlier, key=lambda w: w.value)
        at = cohort.at(before)
        both = [i for i, n in enumerate(names) if n in at]
        if len(both) >= 3:
            old = signal_table(cohort, before, [names[i] for i in both], batch_key=batch_key).scores
            for k in range(len(SIGNALS)):
                seen = max(0.0, _correlation(scores[both, k], old[:, k]))
                steady[k] = (_STEADY_WORTH * steady[k] + len(both) * seen) / (_STEADY_WORTH + len(both))
    return steady


def relative_trust(steady: Floats) -> Floats:
    """Of each signal, 1 for the most trusted."""
    trust: Floats = (1.0 / (1.02 - steady**2)) ** 2
    relative: Floats = trust / trust.max()
    return relative


@dataclass(frozen=True)
class _Found:
    """At one window, with so many trials there: the correlation (None without both rankings), and whether
    hyperparameters vary that shift the training loss itself."""

    trials: int
    correlation: float | None
    shifted: bool


class Agreement:
    """Do objective and loss order the trials alike? What was found at a window is kept until more trials come there.

    Args:
        cohort: The sweep.
        batch_key: Config key of the batch size.
    """

    def __init__(self, cohort: Cohort, batch_key: str) -> None:
        self.of = cohort
        self._batch_key = batch_key
        self._found: dict[Window, _Found] = {}

    def up_to(self, window: Window, steady: Floats) -> float:
        """From -1 to 1; 1 also where either is missing.

        It is the mean correlation of the two rankings at the windows up to this one, each for as many trials as are
        there, corrected for the noise in both (attenuation; Spearman, 1904) and drawn to the prior: that they agree, or
        mostly not where dropout, label smoothing or the like vary.

        Args:
            window: The last window that counts.
            steady: See `steadiness`.
        """
        all_found = [
            self._at(w) for w in self.of.windows() if w.kind == window.kind and w.value <= window.value
        ]
        told = [(f.trials, f.correlation) for f in all_found if f.correlation is not None]
        if not told:
            return 1.0
        trials = max(n for n, _ in told)
        mean = sum(n * c for n, c in told) / sum(n for n, _ in told)
        own = max(-1.0, min(1.0, mean / max(_LEAST_STEADY, math.sqrt(steady[0] * steady[1]))))
        prior = _SHIFTED if any(f.shifted for f in all_found) else 1.0
        agreed = (_AGREED_WORTH * prior + trials * own) / (_AGREED_WORTH + trials)
        return max(-1.0, min(1.0, agreed / _AGREED))

    def _at(self, window: Window) -> _Found:
        trials = len(self.of.at(window))
        known = self._found.get(window)
        if known is not None and known.trials == trials:
            return known
        names = self.of.some_at(window)
        correlation = None
        if len(names) >= 3:
            scores = signal_table(self.of, window, names, batch_key=self._batch_key).scores
            if scores[:, 0].any() and scores[:, 1].any():
                correlation = _correlation(scores[:, 0], scores[:, 1])
        shifted = varies(self.of.trials[n].loss_shifts for n in names)
        found = self._found[window] = _Found(trials, correlation, shifted)
        return found


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 1e-12 else 0.0
