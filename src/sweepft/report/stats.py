"""The few statistics the report states, each with its interval.

One idea: no estimate without an interval, and None where there is too little to say anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "least_squares", "rank_correlation"]

MIN_PAIRS = 5
"""Fewer pairs than this carry no rank correlation worth printing."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, from ``n`` trials."""

    value: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """-1 or 1 when the interval leaves out zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def rank_correlation(x: ArrayLike, y: ArrayLike, cohorts: Sequence[object] | None = None) -> Estimate | None:
    """Spearman's rank correlation over pairs that are both finite.

    Args:
        x, y: Values, one a trial.
        cohorts: If given, ranks are taken and centred within each cohort first (of at least 3 trials), so
            that differences between cohorts count for nothing.
    Returns:
        None with fewer than `MIN_PAIRS` pairs, or where one side does not vary. The interval is by Fisher's z
        with the variance (1 + r^2/2) / (n - 3) of Bonett and Wright (2000); with k cohorts n - 2 - k
        replaces n - 3.
    """
    from scipy.stats import rankdata

    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(xs) & np.isfinite(ys)
    labels = np.asarray([str(c) for c in cohorts] if cohorts is not None else ["all"] * len(xs))
    rx: list[NDArray[np.float64]] = []
    ry: list[NDArray[np.float64]] = []
    groups = 0
    for label in dict.fromkeys(labels[keep].tolist()):
        here = keep & (labels == label)
        if cohorts is not None and here.sum() < 3:
            continue
        groups += 1
        for source, ranks in ((xs, rx), (ys, ry)):
            r = rankdata(source[here])
            ranks.append((r - r.mean()) / max(1.0, here.sum() - 1.0))
    if not groups:
        return None
    a, b = np.concatenate(rx), np.concatenate(ry)
    n, free = len(a), len(a) - 2 - groups
    spread = math.sqrt(float(a @ a) * float(b @ b))
    if n < MIN_PAIRS or free < 1 or spread < 1e-12:
        return None
    r = float(np.clip(a @ b / spread, -1, 1))
    z, half = math.atanh(min(abs(r), 0.999999)), 1.959964 * math.sqrt((1 + r * r / 2) / free)
    low, high = (
        (math.tanh(z - half), math.tanh(z + half)) if r >= 0 else (-math.tanh(z + half), -math.tanh(z - half))
    )
    return Estimate(r, low, high, n)


def least_squares(
    columns: Mapping[str, ArrayLike], y: ArrayLike, min_free: int = 6
) -> dict[str, Estimate] | None:
    """Ordinary least squares with an intercept: each column's coefficient with its 95% t interval.

    Columns that do not vary, or are a linear mix of earlier ones, are left out.

    Returns:
        None when fewer than ``min_free`` degrees of freedom would remain.
    """
    from scipy.stats import t

    target = np.asarray(y, dtype=float)
    n = len(target)
    kept: list[str] = []
    design: NDArray[np.float64] = np.ones((n, 1))
    for name, column in columns.items():
        wider = np.column_stack([design, np.asarray(column, dtype=float)])
        if np.linalg.matrix_rank(wider) > design.shape[1]:
            design = wider
            kept.append(name)
    free = n - design.shape[1]
    if free < min_free or not kept:
        return None
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ target
    variance = float(np.sum((target - design @ beta) ** 2)) / free
    half = t.ppf(0.975, free) * np.sqrt(variance * np.diag(inverse))
    return {
        name: Estimate(float(beta[i]), float(beta[i] - half[i]), float(beta[i] + half[i]), n)
        for i, name in enumerate(kept, 1)
    }
