"""The signals of all trials at a window, side by side, on one scale.

Every signal becomes a rank within the sweep, as a normal score: raw losses of different data and metrics of
different units never meet. Gradient norms are never compared raw across batch sizes: E|g_B|^2 = |G|^2 + tr(Sigma)/B
is linear in 1/B, and what is compared is the norm relative to that line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepft.rules.cohort import Cohort
from sweepft.rules.curve import Snapshot
from sweepft.rules.normal import normal_scores
from sweepft.rules.windows import Window

__all__ = ["SIGNALS", "SignalTable", "signal_table"]

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
    at = cohort.at(window)
    snaps = [at[n] for n in names]
    orders = {s.data_order for s in snaps}
    paired = None not in orders and len(orders) == 1 and all(math.isfinite(s.block_loss) for s in snaps)
    losses = [s.block_loss if paired else s.loss for s in snaps]
    normed = any(math.isfinite(s.log_grad_norm) for s in snaps)
    batches = [_number(cohort.trials[n].covariate(batch_key)) if normed else math.nan for n in names]
    columns = [
        normal_scores([cohort.sign * s.mean_metric for s in snaps]),
        normal_scores([-x for x in losses]),
        normal_scores(-_relative_norms(snaps, np.array(batches))),
    ]
    used: list[str] = list(SIGNALS)
    for key in covariates:
        for label, values in _covariate(key, [cohort.trials[n].covariate(key) for n in names]):
            used.append(label)
            columns.append(values)
    return SignalTable(names, tuple(used), np.stack(columns, axis=1))


def _number(value: Any) -> float:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if ok else math.nan


def _relative_norms(snaps: Sequence[Snapshot], batches: Floats) -> Floats:
    """Log gradient norms minus what the batch size explains; NaN where that cannot be told."""
    logs = np.array([s.log_grad_norm for s in snaps])
    seen = np.isfinite(logs)
    sizes = np.unique(batches[seen & np.isfinite(batches)])
    if len(sizes) == 0 and not np.isfinite(batches).any():
        return logs  # no batch sizes known: taken as equal
    if len(sizes) == 1:
        return np.where(batches == sizes[0], logs, math.nan)
    usable = seen & np.isfinite(batches)
    if usable.sum() < 6:
        return np.full(len(logs), math.nan)
    expected = _expected_square(1.0 / batches[usable], np.exp(2.0 * np.clip(logs[usable], -50, 50)))
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


def _covariate(key: str, values: Sequence[Any]) -> list[tuple[str, Floats]]:
    """A numeric covariate as one column of ranks; a category as one column each, if it varies."""
    numbers = [_number(v) for v in values]
    if any(math.isfinite(x) for x in numbers):
        return [(key, normal_scores(numbers))]
    levels = sorted({str(v) for v in values if v is not None})
    if len(levels) < 2:
        return [(f"{key}={level}", np.zeros(len(values))) for level in levels]
    return [
        (f"{key}={level}", np.array([0.0 if v is None else float(str(v) == level) for v in values]))
        for level in levels
    ]
