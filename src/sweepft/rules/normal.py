"""The normal distribution and ranks on its scale, with numpy alone."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cdf", "normal_scores", "quantile"]

Floats = NDArray[np.float64]

_GRID = np.linspace(-8.0, 8.0, 3201)
_CDF = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _GRID])
_SCORES: dict[int, Floats] = {}


def cdf(x: Any) -> Floats:
    """P(Z <= x), elementwise, to 1e-5."""
    out: Floats = np.interp(x, _GRID, _CDF)
    return out


def quantile(p: float) -> float:
    """The inverse of the distribution function."""
    return NormalDist().inv_cdf(p)


def _table(n: int) -> Floats:
    """Normal quantile of (k / 2n) for k = 1 .. 2n - 1: every mid-rank among n values."""
    if n not in _SCORES:
        if len(_SCORES) > 4096:
            _SCORES.clear()
        dist = NormalDist()
        _SCORES[n] = np.array([dist.inv_cdf(k / (2 * n)) for k in range(1, 2 * n)])
    return _SCORES[n]


def normal_scores(values: Any) -> Floats:
    """Ranks of the finite values as normal quantiles of (rank - 1/2) / n, ties at their middle; NaN gets 0.

    A single value, or all equal ones, get 0: they say nothing.
    """
    data = np.asarray(values, dtype=float)
    out = np.zeros(len(data))
    seen = np.isfinite(data)
    n = int(seen.sum())
    if n < 2:
        return out
    own = data[seen]
    ordered = np.sort(own)
    twice_rank = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    out[seen] = _table(n)[twice_rank - 1]
    return out
