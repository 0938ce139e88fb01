"""What early signals are worth in the sweep at hand: the evidence that finished trials give, and none without them.

Each hypothesis names a signal and its correlation with the final result, at the rung where most finished trials have
been. One hypothesis is that no signal says anything; others are that signals tell the worse trials apart and not the
better ones, whose results often differ by no more than noise. The probability
of the order in which trials finished, given their signals, tells the hypotheses apart. It is that of a model of normal
pairs and uses ranks alone, so that under the hypothesis of no information it is 1 / n!, whatever the results are. The
odds of any signal therefore cannot be expected to rise where signals say nothing, and a rule that flags by these
probabilities loses on average little more than it was asked for.

Earlier rungs are worth less by the rank persistence of the score from rung to rung, as measured. Where trials repeat a
configuration with another seed, finished ones also tell how far its signals are off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.rungs import Rung

Floats = NDArray[np.float64]

FINISHED: Final = 32  # finished trials learned from: the latest
CONFIRMED: Final = 2  # finished trials before one is flagged: fewer can hardly contradict the prior
_RHO: Final = ((0.02, 0.40), (0.05, 0.60), (0.10, 0.80), (0.25, 0.88), (0.50, 0.94), (0.75, 0.97))
_POWERS: Final = (
    8.0,
    3.0,
    1.0,
    0.4,
)  # of that correlation: signals that say far less, less, as much, or more
_NOTHING: Final = 0.5  # prior probability that no signal says anything
_REVERSED: Final = 0.05  # that the objective seen early is the wrong way round
_OTHERS: Final = 0.05  # that gradient norm or a covariate tells the order, and nothing else
_PERSISTENCE: Final = 0.98  # before it is seen
_PERSISTENCE_WORTH: Final = 4.0  # of that, in trials
_HALF: Final = 0.5  # of all this, that signals tell the worse half apart alone
_GRID: Final = np.linspace(-5.0, 5.0, 161)
_SHARED: Final = np.array([[0.0], [0.3], [0.6], [0.9]])  # of the variance, by configuration


def prior_correlation(rung: Rung) -> float:
    """Correlation with the final result that fine-tunes show at a rung, where the objective is seen early."""
    xs, ys = zip(*_RHO, strict=True)
    return float(np.interp(rung.fraction if rung.fraction is not None else 0.1, xs, ys))


@dataclass(frozen=True)
class Hypotheses:
    """Which signal tells the final order, and how well.

    Attributes:
        signal: (h,) column of the score; 0 is the main one, 1 that of the worse half.
        rho: (h,) its correlation with the final result.
        probability: (h,) sums to 1.
    """

    signal: NDArray[np.intp]
    rho: Floats
    probability: Floats

    @property
    def nothing(self) -> float:
        """Probability that no signal says anything."""
        return float(self.probability[self.rho == 0.0].sum())

    @property
    def correlation(self) -> float:
        """Expected correlation of the main score with the final result."""
        main = self.signal <= 1
        return float(self.rho[main] @ self.probability[main])

    def with_nothing(self, probability: float) -> Hypotheses:
        """The same, with another probability that no signal says anything."""
        others = (1.0 - probability) / max(1e-12, 1.0 - self.nothing)
        scale = np.where(self.rho == 0.0, probability / max(1e-12, self.nothing), others)
        return Hypotheses(self.signal, self.rho, self.probability * scale)

    def given(self, scores: Floats, finals: Floats) -> Hypotheses:
        """After trials have finished.

        Args:
            scores: (n, k) normal scores of their signals.
            finals: (n,) their results, larger is better.
        """
        if len(finals) < 2:
            return self
        log = order_probability(scores[:, self.signal], finals, self.rho)
        posterior = self.probability * np.exp(log - log.max())
        return Hypotheses(self.signal, self.rho, posterior / posterior.sum())


@lru_cache(maxsize=256)
def prior_hypotheses(base: float, others: int, objective_seen: bool) -> Hypotheses:
    """Before any trial has finished.

    Args:
        base: See `prior_correlation`.
        others: Number of signals besides the main score and its worse half.
        objective_seen: Whether the main score rests on the objective: if it does not, either direction is as likely.
    """
    some = base ** np.array(_POWERS)
    rest = 1.0 - _NOTHING - (_OTHERS if others else 0.0)
    worse = _REVERSED if objective_seen else 0.5 * rest
    rows = [(0, 0.0, _NOTHING)]
    for column, share in ((0, 1.0 - _HALF), (1, _HALF)):
        rows += [(column, r, share * (rest - worse) / len(some)) for r in some]
        rows += [(column, -r, share * worse / len(some)) for r in some]
    rows += [
        (k, s * r, _OTHERS / others / 2 / len(some))
        for k in range(2, others + 2)
        for r in some
        for s in (1, -1)
    ]
    signal, rho, probability = zip(*rows, strict=True)
    return Hypotheses(np.array(signal, dtype=np.intp), np.array(rho), np.array(probability))


def order_probability(scores: Floats, finals: Floats, rho: Floats) -> Floats:
    """Log probability of the order of final results, given scores that correlate with them.

    Results are normal with mean rho * score and variance 1 - rho^2; only their order is known. Trials with equal
    results get their mean score, so that all orders among them are equally likely.

    Args:
        scores: (n, h) on the scale of normal scores: each hypothesis's own signal.
        finals: (n,) results.
        rho: (h,) correlations, in (-1, 1).

    Returns:
        (h,) log probabilities; that of correlation 0 is -log n!.
    """
    levels, group = np.unique(finals, return_inverse=True)
    if len(levels) < len(finals):
        sums = np.zeros((len(levels), scores.shape[1]))
        np.add.at(sums, group, scores)
        scores = (sums / np.bincount(group)[:, None])[group]
    width = np.sqrt(1.0 - rho**2)[:, None]
    step, grid = float(_GRID[1] - _GRID[0]), _GRID / width
    means = (rho * scores[np.argsort(finals, kind="stable")])[:, :, None] / width
    log = np.full(len(rho), -0.5 * len(scores) * math.log(2.0 * math.pi))
    largest: Floats | None = None  # density of the largest result so far: one trial is added at a time
    for mean in means:
        density = grid - mean
        np.square(density, out=density)
        density *= -0.5
        np.exp(density, out=density)
        density /= width
        if largest is not None:
            density *= (np.cumsum(largest, axis=1) - 0.5 * largest) * step
        total = np.maximum(density.sum(axis=1) * step, 1e-300)
        log += np.log(total)
        density /= total[:, None]
        largest = density
    return log


def persistence(earlier: Floats, later: Floats) -> float:
    """Rank correlation of the scores of n trials at two rungs, shrunk to nearly 1: what it bounds is learned elsewhere.

    Args:
        earlier: (n,) scores at the earlier rung.
        later: (n,) those of the same trials at the later one.
    """
    n = len(earlier)
    size = math.sqrt(float(earlier @ earlier) * float(later @ later))
    seen = float(earlier @ later) / size if size > 1e-12 else _PERSISTENCE
    return (n * seen + _PERSISTENCE_WORTH * _PERSISTENCE) / (n + _PERSISTENCE_WORTH)


def predict_residual(
    configurations: Sequence[str | None], done: Sequence[int], missed: Floats, noise: Floats
) -> tuple[Floats, Floats]:
    """The part of each trial's result that its signals are expected to miss, from finished trials of its configuration.

    A random-effects model: a configuration shares a part of the residual variance, averaged over four such shares.

    Args:
        configurations: n digests, see `sweepft.early_stopping.trial.configuration`.
        done: Positions of the m finished trials.
        missed: (m,) their residuals, in standard deviations.
        noise: (m,) variances of these.

    Returns:
        (n,) means and (n,) variances: 0 and 1 where nothing is known.
    """
    codes: dict[str | int, int] = {}
    group = np.array(
        [codes.setdefault(i if c is None else c, len(codes)) for i, c in enumerate(configurations)]
    )
    own = group[list(done)]
    apart = (1.0 - _SHARED) + noise  # (s, m): variance of a finding around its configuration's part
    count = len(codes)
    weight = np.stack([np.bincount(own, w, count) for w in 1.0 / apart])  # (s, groups)
    total = np.stack([np.bincount(own, w, count) for w in missed / apart])
    spread = 1.0 + _SHARED * weight
    part, unsure = _SHARED * total / spread, _SHARED / spread
    fit = (missed**2 / apart).sum(axis=1) - (total * part).sum(axis=1)
    fit += np.log(apart).sum(axis=1) + np.log(spread).sum(axis=1)
    belief = np.exp(-0.5 * (fit - fit.min()))[:, None]
    belief /= belief.sum()
    mean, variance = part[:, group], 1.0 - _SHARED + unsure[:, group]
    mean_all: Floats = (belief * mean).sum(axis=0)
    variance_all: Floats = (belief * (variance + mean**2)).sum(axis=0) - mean_all**2
    return mean_all, variance_all


def repeat_noise(values: Floats, configurations: Sequence[str | None]) -> float:
    """Standard deviation of a value among repeats of a configuration, pooled; NaN with fewer than three to spare."""
    groups: dict[str, list[float]] = {}
    for value, kind in zip(values.tolist(), configurations, strict=True):
        if kind is not None and math.isfinite(value):
            groups.setdefault(kind, []).append(value)
    free = sum(len(g) - 1 for g in groups.values())
    if free < 3:
        return math.nan
    squares: list[Any] = [((np.array(g) - np.mean(g)) ** 2).sum() for g in groups.values()]
    return math.sqrt(float(sum(squares)) / free)
