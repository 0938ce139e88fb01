"""Trials that repeat a configuration with another seed: how the first ended tells more of the next than its curve does.

What early signals miss of a trial's final result is taken as the sum of a part that its configuration shares with
every repeat and a part of its own (a random-effects model). Where repeats have finished, the shared part is known, and
the trial's prospects move by it. How much is shared is learned from the finished trials themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["foretold"]

Floats = NDArray[np.float64]
_SHARED: Final = np.array([[0.3], [0.6], [0.9]])  # of the variance: equally likely before anything is known


def foretold(
    configurations: Sequence[str | None], done: Sequence[int], missed: Floats, noise: Floats
) -> tuple[Floats, Floats]:
    """What of each trial's result its early signals are expected to miss, as far as finished trials tell.

    Args:
        configurations: (n,) of all trials; see `sweepft.rules.configuration`.
        done: Positions of the m finished ones.
        missed: (m,) what the signals missed of theirs, in standard deviations.
        noise: (m,) variance with which that is known.
    Returns:
        (n,) means and (n,) variances: 0 and 1 where nothing is known.
    """
    codes: dict[str | int, int] = {}
    group = np.array(
        [codes.setdefault(i if c is None else c, len(codes)) for i, c in enumerate(configurations)]
    )
    own = group[list(done)]
    apart = (1.0 - _SHARED) + noise  # (3, m): variance of a finding around its configuration's part
    count = len(codes)
    weight = np.stack([np.bincount(own, w, count) for w in 1.0 / apart])  # (3, groups)
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
