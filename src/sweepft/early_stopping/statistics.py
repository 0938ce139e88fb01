"""The normal distribution and normal scores, with numpy alone: importing scipy.special takes a second, and its last
digits differ from those that recorded decisions rest on.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_GRID = np.linspace(-8.0, 8.0, 3201)
_CDF = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _GRID])


def cdf(x: Any) -> Floats:
    """P(Z <= x) of the standard normal distribution, elementwise, to 1e-5."""
    out: Floats = np.interp(x, _GRID, _CDF)
    return out


def quantile(p: float) -> float:
    """The inverse of `cdf`."""
    return NormalDist().inv_cdf(p)


@lru_cache(maxsize=4096)
def _mid_ranks(n: int) -> Floats:
    """Normal quantiles of k / 2n for k = 1 .. 2n - 1: every mid-rank among n values."""
    dist = NormalDist()
    return np.array([dist.inv_cdf(k / (2 * n)) for k in range(1, 2 * n)])


def _mid_rank_places(values: Floats) -> NDArray[np.intp]:
    """(n,) the place of each value's mid-rank in 1, 1.5, 2 ... n, from 0."""
    ordered = np.sort(values)
    places: NDArray[np.intp] = (
        np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1
    )
    return places


def normal_scores(values: Any) -> Floats:
    """Ranks of the finite values as normal quantiles of (rank - 1/2) / n, ties at their middle; NaN gets 0.

    A single value, or all equal ones, get 0.
    """
    data = np.asarray(values, dtype=float)
    out = np.zeros(len(data))
    seen = np.isfinite(data)
    n = int(seen.sum())
    if n < 2:
        return out
    out[seen] = _mid_ranks(n)[_mid_rank_places(data[seen])]
    return out


SCORE_GRID = np.linspace(-4.0, 4.0, 81)
"""Standard scores over which unknown places are averaged."""


@lru_cache(maxsize=128)
def _place_weights(n: int) -> Floats:
    rank = 0.5 * np.arange(2, 2 * n + 1)[:, None]
    below = cdf(SCORE_GRID)
    log = (rank - 1.0) * np.log(below) + (n - rank) * np.log(1.0 - below + 1e-12) - 0.5 * SCORE_GRID**2
    weights = np.exp(log - log.max(axis=1, keepdims=True))
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def place_weights(values: Any) -> Floats:
    """Where each of n values lies in the population that all were drawn from: an order statistic, known by rank alone.

    Returns:
        (n, g) probabilities over `SCORE_GRID`; the whole population for NaN, and where all values are equal.
    """
    data = np.asarray(values, dtype=float)
    whole = np.exp(-0.5 * SCORE_GRID**2)
    out = np.tile(whole / whole.sum(), (len(data), 1))
    seen = np.isfinite(data)
    n = int(seen.sum())
    if n < 2 or np.ptp(data[seen]) == 0:
        return out
    out[seen] = _place_weights(n)[_mid_rank_places(data[seen])]
    return out
