"""Priors in the acquisition function of Optuna's Gaussian process sampler. Loads torch, as that sampler does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna._gp.acqf import BaseAcquisitionFunc

from sweepft.search.prior import SHARE, Belief


class WithPrior(BaseAcquisitionFunc):
    """An acquisition function times the density of priors to a power.

    Args:
        acquisition: In logarithms.
        beliefs: By column of the places that it is given.
        exponent: The power.
    """

    def __init__(
        self, acquisition: BaseAcquisitionFunc, beliefs: Mapping[int, Belief], exponent: float
    ) -> None:
        super().__init__(acquisition.length_scales, acquisition.search_space)
        self._acquisition = acquisition
        self._beliefs = beliefs
        self._exponent = exponent

    def eval_acqf(self, x: Any) -> Any:
        """Values at places ``x``, a tensor of shape ``(..., dimensions)``."""
        found = self._acquisition.eval_acqf(x)
        for column, belief in self._beliefs.items():
            off = (x[..., column] - belief.mean) / belief.deviation
            density = SHARE * belief.peak * (-0.5 * off.square()).exp() + 1 - SHARE
            found = found + self._exponent * density.log()
        return found
