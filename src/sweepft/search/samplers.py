"""The Optuna sampler for each proposal, and the part of a long history that it learns from.

A sampler is created for every proposal and seeded by the sweep's seed and the trial's number. All it knows is in the
study, so a resumed sweep proposes the same trials as an uninterrupted one. In a long sweep a sampler is shown the
latest finished trials, the best earlier ones and the latest running ones, which keeps a proposal's cost constant.
"""

from __future__ import annotations

import hashlib
import warnings
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweepft.search.prior import Belief, Prior, PriorQmc, PriorSampler, place_of
from sweepft.spec import Search

LATEST: Final = 250
BEST: Final = 50
MAX_RUNNING: Final = 100
"""Finished trials, earlier completed trials and running trials that a sampler is shown, at most."""


class SamplerHistory:
    """Finished trials that a sampler learns from.

    Args:
        latest: Number of the latest trials, by trial number; None for all.
        best: Number of the best completed trials before these.
        maximize: Whether the study maximizes.
    """

    def __init__(self, latest: int | None = LATEST, best: int = BEST, *, maximize: bool = False) -> None:
        self._latest, self._best_count = latest, best
        self._sign = -1.0 if maximize else 1.0
        self._finished: list[tuple[int, FrozenTrial]] = []
        self._best: list[tuple[float, int, FrozenTrial]] = []

    def add(self, trial: FrozenTrial) -> None:
        """Add a finished trial; failed ones are ignored."""
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        insort(self._finished, (trial.number, trial))
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            insort(self._best, (self._sign * trial.value, trial.number, trial))
            del self._best[self._best_count :]

    def trials(self) -> list[FrozenTrial]:
        """The trials, by number."""
        if self._latest is None or len(self._finished) <= self._latest:
            return [trial for _, trial in self._finished]
        latest = self._finished[-self._latest :]
        earlier = sorted((n, trial) for _, n, trial in self._best if n < latest[0][0])
        return [trial for _, trial in (*earlier, *latest)]


def derived_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2^32) for one purpose of a seeded sweep; independent between purposes."""
    text = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class _Beliefs:
    """The priors that one proposal follows.

    Attributes:
        drawn: Those that a start-up trial is drawn from; empty if it is drawn from the whole range.
        weighed: Those that a model prefers, with this exponent.
    """

    drawn: Mapping[str, Belief]
    weighed: Mapping[str, Belief]
    exponent: float

    @classmethod
    def of(cls, prior: Prior, number: int) -> _Beliefs:
        """Those of one trial."""
        return cls(prior.beliefs if prior.draws(number) else {}, prior.beliefs, prior.exponent(number))

    def log_weight(self, places: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | float:
        """What a model adds to the logarithm of what it maximises, at places on the scales of the ranges."""
        return self.exponent * sum(
            belief.log_density(places[name]) for name, belief in self.weighed.items() if name in places
        )


class _Tpe(TPESampler):
    """TPE for a fixed space. Optuna's compares the spaces of all trials, which takes a third of its time."""

    def __init__(
        self, space: Mapping[str, BaseDistribution], beliefs: _Beliefs, seed: int, **settings: Any
    ) -> None:
        super().__init__(seed=seed, **settings)
        self._known = {name: space[name] for name in sorted(space) if not space[name].single()}
        self._beliefs = beliefs
        if beliefs.drawn:
            self._random_sampler = PriorSampler(beliefs.drawn, seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: every trial of a sweep has every parameter."""
        return self._known

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[Any]]:
        """As Optuna's, without its check that each trial has every parameter, a fifth of a proposal's time."""
        params = [trial.params for trial in trials]
        return {
            name: np.asarray([distribution.to_internal_repr(given[name]) for given in params])
            for name, distribution in search_space.items()
        }

    def _compute_acquisition_func(
        self, samples: dict[str, NDArray[Any]], mpe_below: Any, mpe_above: Any
    ) -> NDArray[np.float64]:
        """As Optuna's, times the priors."""
        found: NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        places = {}
        for name in self._beliefs.weighed.keys() & samples.keys():
            distribution = self._known[name]
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            places[name] = place_of(samples[name], distribution)
        return found + self._beliefs.log_weight(places)


class _Gp(GPSampler):
    """Optuna's, which multiplies the expected improvement by the priors."""

    def __init__(self, beliefs: _Beliefs, seed: int, **settings: Any) -> None:
        independent = PriorSampler(beliefs.drawn, seed) if beliefs.drawn else None
        super().__init__(
            seed=seed, independent_sampler=independent, warn_independent_sampling=False, **settings
        )
        self._beliefs = beliefs
        self._names: list[str] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As Optuna's."""
        space = super().infer_relative_search_space(study, trial)
        self._names = list(space)
        return space

    def _optimize_acqf(self, acqf: Any, best_params: NDArray[np.float64] | None) -> NDArray[np.float64]:
        weighed = self._beliefs.weighed
        columns = {self._names.index(name): belief for name, belief in weighed.items() if name in self._names}
        if columns:
            from sweepft.search.gp_prior import WithPrior

            acqf = WithPrior(acqf, columns, self._beliefs.exponent)
        return super()._optimize_acqf(acqf, best_params)


def sampler_for(
    search: Search, number: int, attempt: int, *, parallel: bool, space: Mapping[str, BaseDistribution]
) -> BaseSampler:
    """The sampler that proposes trial ``number``.

    Args:
        search: The spec's section.
        number: Of the trial in the sweep.
        attempt: How often this trial's proposal was one that had been tried before.
        parallel: Whether trials run concurrently: TPE then counts running trials as bad, so that it does not propose
            the same region again (constant liar).
        space: Distribution by parameter.
    """
    seed = derived_seed(search.seed, number, attempt)
    startup = startup_trials(search.trials)
    beliefs = _Beliefs.of(Prior(search, startup), number)
    match search.sampler:
        case "tpe":
            return _Tpe(space, beliefs, seed, n_startup_trials=startup, constant_liar=parallel)
        case "gp":
            return _Gp(beliefs, seed, n_startup_trials=startup)
        case "cmaes":
            return CmaEsSampler(
                seed=seed,
                n_startup_trials=1,
                warn_independent_sampling=False,
                independent_sampler=RandomSampler(seed),
            )
        case "qmc":
            return _qmc(search.seed, beliefs, PriorSampler(beliefs.drawn, seed))
        case "random" | "grid":  # the proposer enumerates a grid
            return PriorSampler(beliefs.drawn, seed)


def random_sampler(search: Search, number: int, attempt: int) -> BaseSampler:
    """Random search, for when a sampler keeps proposing what was tried."""
    return RandomSampler(derived_seed(search.seed, number, attempt, "random"))


def _qmc(seed: int, beliefs: _Beliefs, independent: RandomSampler) -> BaseSampler:
    """One sequence for the whole sweep, so one seed; Optuna keeps the position in the study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # its interface is unchanged since 3.0
        return PriorQmc(beliefs.drawn, seed, independent)


def startup_trials(trials: int | None) -> int:
    """Random trials before a model is used: Optuna's 10, fewer in short sweeps, at least 4."""
    return 10 if trials is None else max(4, min(10, trials // 3))
