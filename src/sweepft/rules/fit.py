"""Which signals tell the order of final results: a pairwise logistic model with a prior, and rank agreement.

Pairs of finished trials are compared, not their values: trials finish because their early signals were good, and
selection on the signals leaves comparisons between them fair, while it would bend a regression on the values.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_weights", "rank_correlation"]

Floats = NDArray[np.float64]


def fit_weights(features: Floats, values: Floats, prior: Floats, strength: float) -> Floats:
    """Weights under which ``features @ weights`` orders the finals, pulled towards ``prior``.

    Args:
        features: (n, k), on the scale of normal scores.
        values: (n,) final objectives, larger is better.
        prior: (k,) weights to start from.
        strength: Inverse variance of the prior: about as many trials as it outweighs.
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
    share = len(values) / len(delta)  # the pairs of n trials tell no more than n trials
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
