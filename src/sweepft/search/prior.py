"""What a user expects of the best values (``prior`` in ``search.space``), for start-up trials and for samplers.

A prior is a normal distribution on the dimension's own scale, cut off at the ends of its range. Three of four start-up
trials are drawn from it, the fourth from the whole range. After them its weight falls with the number of trials, as in
pi-BO (Hvarfner et al., ICLR 2022): ``tpe`` and ``gp`` multiply what they maximise by the prior's density to the power
``startup / number``; ``random`` and ``qmc`` draw fewer and fewer trials from it. So a wrong prior costs trials, but
no region is excluded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import QMCSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy import stats

from sweepft.search.space import Param
from sweepft.spec import Dimension, Search

SHARE: Final = 0.75
"""Share of start-up trials that are drawn from the prior, and its share in the density that samplers are given."""

DEFAULT_WIDTH: Final = 1 / 8
_NARROWEST: Final = 1e-6
"""Deviations of a prior as shares of the range: without ``width``, and the smallest."""

_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Belief:
    """The prior of one range, on its own scale as a share of the range: 0 is its low end, 1 its high end.

    Attributes:
        mean, deviation: Of the normal distribution before it is cut off at 0 and 1.
    """

    mean: float
    deviation: float

    def quantile(self, share: float) -> float:
        """The place below which this share of the prior lies."""
        low, high = self._below_ends
        return float(stats.norm.ppf(low + share * (high - low), self.mean, self.deviation).clip(0, 1))

    def log_density(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log density of the prior mixed with the whole range, relative to the whole range; at least log(1 - SHARE)."""
        inside = self.peak * np.exp(-0.5 * ((places - self.mean) / self.deviation) ** 2)
        found: NDArray[np.float64] = np.log(SHARE * inside + 1 - SHARE)
        return found

    @cached_property
    def peak(self) -> float:
        """The prior's density at its mean, relative to the whole range."""
        low, high = self._below_ends
        return 1 / ((high - low) * self.deviation * math.sqrt(2 * math.pi))

    @cached_property
    def _below_ends(self) -> tuple[float, float]:
        """The share of the whole normal distribution below each end of the range."""
        low, high = stats.norm.cdf([0, 1], self.mean, self.deviation)
        return float(low), float(high)


def explores(number: int, startup: int) -> bool:
    """Whether a start-up trial is drawn from the whole space, whatever is known: every fourth."""
    return number < startup and number * _GOLDEN % 1 >= SHARE


class Prior:
    """The priors of a search space.

    Args:
        search: The spec's section.
        startup: Trials before a model is used.

    Attributes:
        beliefs: By parameter of the study; empty without any.
    """

    def __init__(self, search: Search, startup: int) -> None:
        self._startup = startup
        self.beliefs = {
            key: _belief(dimension) for key, dimension in search.space.items() if dimension.prior is not None
        }

    def draws(self, number: int) -> bool:
        """Whether a trial that no model proposes is drawn from the prior."""
        share = SHARE * min(1.0, self._startup / max(1, number))
        return bool(self.beliefs) and number * _GOLDEN % 1 < share

    def exponent(self, number: int) -> float:
        """The power to which a model raises the prior's density."""
        return self._startup / max(1, number)


def _belief(dimension: Dimension) -> Belief:
    """The belief of a range with a prior."""
    assert dimension.prior is not None
    low, high = map(float, dimension.bounds)
    if dimension.int_uniform is not None:
        low, high = low - 0.5, high + 0.5
    mean, width = dimension.prior, dimension.width
    if dimension.log_uniform is not None:
        low, high, mean = math.log(low), math.log(high), math.log(mean)
        width = None if width is None else math.log(width)
    deviation = DEFAULT_WIDTH if width is None else max(width / (high - low), _NARROWEST)
    return Belief((mean - low) / (high - low), deviation)


def place_of(value: Any, distribution: FloatDistribution | IntDistribution) -> Any:
    """The place of one or more values of a range on its own scale, 0 to 1."""
    low, high = _ends(distribution)
    values = np.log(value) if distribution.log else np.asarray(value, dtype=np.float64)
    return (values - low) / (high - low)


def value_at(place: float, distribution: FloatDistribution | IntDistribution) -> float | int:
    """The value at a place of a range."""
    low, high = _ends(distribution)
    value = low + place * (high - low)
    value = math.exp(value) if distribution.log else value
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def _ends(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Both ends of a range on its own scale, with half a step beyond those of whole numbers."""
    half = 0.5 if isinstance(distribution, IntDistribution) else 0.0
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


class PriorSampler(RandomSampler):
    """Random values: from the prior where there is one, else from the whole range.

    Args:
        beliefs: By parameter.
        seed: Of both.
    """

    def __init__(self, beliefs: Mapping[str, Belief], seed: int) -> None:
        super().__init__(seed)
        self._beliefs = beliefs
        self._draws = np.random.default_rng(seed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of one parameter."""
        belief = self._beliefs.get(param_name)
        if belief is None:
            return super().sample_independent(study, trial, param_name, param_distribution)
        assert isinstance(param_distribution, FloatDistribution | IntDistribution)
        return value_at(belief.quantile(self._draws.random()), param_distribution)


class PriorQmc(QMCSampler):
    """A quasi-random sequence that fills the prior as evenly as it would fill the whole range.

    Args:
        beliefs: By parameter; empty for a point of the plain sequence.
        seed: Of the sequence.
        independent: Proposes what no sequence can: categories, and the first trial.
    """

    def __init__(self, beliefs: Mapping[str, Belief], seed: int, independent: RandomSampler) -> None:
        super().__init__(
            seed=seed, scramble=True, warn_independent_sampling=False, independent_sampler=independent
        )
        self._beliefs = beliefs

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point of the sequence."""
        point = super().sample_relative(study, trial, search_space)
        return {
            name: self._moved(name, value, search_space[name], trial.number) for name, value in point.items()
        }

    def _moved(self, name: str, value: Param, distribution: BaseDistribution, number: int) -> Any:
        belief = self._beliefs.get(name)
        if belief is None:
            return value
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        share = float(place_of(value, distribution))
        if isinstance(distribution, IntDistribution):  # anywhere within the whole number's share of the range
            low, high = _ends(distribution)
            share += (number * _GOLDEN % 1 - 0.5) / (high - low)
        return value_at(belief.quantile(share), distribution)
