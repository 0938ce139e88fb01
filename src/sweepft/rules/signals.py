"""The signals of all trials at a window, side by side, on one scale.

Every signal becomes a rank within the sweep, as a normal score: raw losses of different data and metrics of
different units never meet. Gradient norms are never compared raw across batch sizes: E|g_B|^2 = |G|^2 + tr(Sigma)/B
is linear in 1/B, and what is compared is the norm relative to that line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.normal import normal_scores
from sweepft.rules.windows import Window

__all__ = ["SIGNALS", "SignalTable", "relative_norms", "signal_table"]

Floats = NDArray[np.float64]
SIGNALS = (
    "objective",
    "loss",
    "grad_norm",
)  # larger score = better objective, lower loss, lower gradient norm


@dataclass(frozen=True)
class SignalTable:
    """Signals of trials at a window.

    Attributes:
        names: (n,) trial ids.
        columns: Names of the k columns: `SIGNALS`, then covariates.
        scores: (n, k) normal scores; 0 where a trial has no value.
    """

    names: Sequence[str]
    columns: tuple[str, ...]
    scores: Floats


def signal_table(
    cohort: Cohort,
    window: Window,
    names: Sequence[str],
    covariates: Sequence[str] = (),
    batch_key: str = "batch_size",
) -> SignalTable:
    """The signals of these trials, which all have a snapshot at the window.

    The objective is the mean of those so far, weighted by progress. Loss is compared on equal blocks of samples where
    all trials share one data order (far less noise), else as the mean over the last fifth of the way so far.
    """
    seen = cohort.columns(window)
    places = seen.places(names)
    losses, norms = seen.values("block_loss", places), seen.values("log_grad_norm", places)
    if not (seen.same_order(places) and np.isfinite(losses).all()):
        losses = seen.values("loss", places)
    trials = [cohort.trials[n] for n in names]
    batches = np.array([t.numeric(batch_key) for t in trials])
    columns = [
        normal_scores(cohort.sign * seen.values("mean_metric", places)),
        normal_scores(-losses),
        normal_scores(-relative_norms(norms, batches)),
    ]
    used: list[str] = list(SIGNALS)
    for key in covariates:
        for label, values in _covariate(key, trials):
            used.append(label)
            columns.append(values)
    return SignalTable(names, tuple(used), np.stack(columns, axis=1))


def relative_norms(logs: Floats, batches: Floats) -> Floats:
    """Log gradient norms minus what the batch size explains; NaN where that cannot be told.

    Args:
        logs: (n,) log gradient norms.
        batches: (n,) batch sizes; NaN, or no positive number, where not known.
    """
    known = np.isfinite(batches) & (batches > 0)
    usable = known & np.isfinite(logs)
    sizes = batches[usable]
    if not known.any():
        return logs  # no batch sizes known: taken as equal
    if len(sizes) and (sizes == sizes[0]).all():
        return np.where(batches == sizes[0], logs, math.nan)
    if len(sizes) < 6:
        return np.full(len(logs), math.nan)
    expected = _expected_square(1.0 / sizes, np.exp(2.0 * np.clip(logs[usable], -50, 50)))
    out = np.full(len(logs), math.nan)
    out[usable] = logs[usable] - 0.5 * np.log(expected)
    return out


def _expected_square(inverse: Floats, squared: Floats) -> Floats:
    """The line a + b / B through squared norms, a and b >= 0, by least absolute relative errors.

    Iterated weights instead of plain squares: one spiking trial must not draw the line.
    """
    x = inverse / inverse.max()
    powers = np.stack([np.ones_like(x), x, x * x, squared, squared * x])
    level = float(np.median(squared))
    expected = np.full(len(squared), level)
    for _ in range(12):
        off = np.abs(squared - expected) / expected
        # Weighted least squares in two unknowns, solved by hand: it runs at every verdict.
        one, first, second, y, xy = powers @ (1.0 / (np.maximum(off, 0.02) * expected**2))
        determinant = one * second - first * first
        a, b = (second * y - first * xy) / determinant, (one * xy - first * y) / determinant
        if a < 0 or b < 0:  # no noise seen, or nothing but noise
            a, b = (y / one, 0.0) if a > b else (0.0, xy / second)
        expected = np.maximum(a + b * x, 1e-3 * level + 1e-300)
    return expected


def _covariate(key: str, trials: Sequence[TrialRecord]) -> list[tuple[str, Floats]]:
    """A numeric covariate as one column of ranks; a category as one column each, if it varies."""
    numbers = [t.numeric(key) for t in trials]
    if any(math.isfinite(x) for x in numbers):
        return [(key, normal_scores(numbers))]
    values = [t.covariate(key) for t in trials]
    levels = sorted({str(v) for v in values if v is not None})
    if len(levels) < 2:
        return [(f"{key}={level}", np.zeros(len(values))) for level in levels]
    return [
        (f"{key}={level}", np.array([0.0 if v is None else float(str(v) == level) for v in values]))
        for level in levels
    ]
