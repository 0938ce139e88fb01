"""Normal scores, and which signals order final results: a pairwise logistic model with a prior, and rank correlation.

Pairs of finished trials are compared, not their values. Trials finish because their early signals were good; that
selection leaves comparisons between them fair, but would bias a regression on the values. With numpy alone: importing
scipy.special takes a second, and its last digits differ from those that recorded decisions rest on.
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
    own = data[seen]
    ordered = np.sort(own)
    twice_rank = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    out[seen] = _mid_ranks(n)[twice_rank - 1]
    return out


def fit_weights(features: Floats, values: Floats, prior: Floats, strength: float) -> Floats:
    """Weights under which ``features @ weights`` orders the finals, pulled towards ``prior``.

    Args:
        features: (n, k), on the scale of normal scores.
        values: (n,) final objectives, larger is better.
        prior: (k,) weights to start from.
        strength: Inverse variance of the prior, about the number of trials that it is worth.

    Returns:
        (k,) weights; the prior when there are no unequal pairs.
    """
    i, j = _pairs(len(values))
    sign = np.sign(values[i] - values[j])
    keep = sign != 0
    delta = (features[i] - features[j])[keep] * sign[keep][:, None]
    weights = prior.copy()
    if not len(delta):
        return weights
    share = len(values) / len(delta)  # the pairs of n trials hold no more information than n trials
    ridge = strength * np.eye(len(prior))
    for _ in range(8):
        miss = 1.0 / (1.0 + np.exp(np.clip(delta @ weights, -30.0, 30.0)))
        gradient = strength * (weights - prior) - share * (delta.T @ miss)
        curvature = share * (delta.T * (miss * (1.0 - miss))) @ delta + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-4:
            break
    return weights


def rank_correlation(scores: Floats, values: Floats) -> float:
    """Correlation of the normal pair behind two rankings: sin(pi/2 * Kendall's tau-a), in [-1, 1]."""
    i, j = _pairs(len(values))
    if not len(i):
        return 0.0
    tau = float(np.mean(np.sign(scores[i] - scores[j]) * np.sign(values[i] - values[j])))
    return math.sin(math.pi / 2 * tau)


@lru_cache(maxsize=256)
def _pairs(n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Positions of all pairs among n."""
    i, j = np.triu_indices(n, 1)
    return i, j
