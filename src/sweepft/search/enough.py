"""What a further trial is expected to gain: the largest expected improvement over the search space.

A Gaussian process (Optuna's, as its `gp` sampler fits it) models the objective over the better half of the completed
trials, as Optuna's terminators do: losses of poor settings are several times those of good ones and would set the scale
of the model. The gain of a trial is how far its true objective is ahead of that of the best trial so far, both as the
model has them, so the luck of the best trial's seed does not count.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweepft.ledger import SweepState
from sweepft.ledger import TrialState as SweepTrial
from sweepft.search.samplers import derived_seed
from sweepft.search.space import Space
from sweepft.spec import SweepSpec

_log = logging.getLogger(__name__)

LEAST: Final = 12
MOST: Final = 200
"""Trials that the model is fitted on, at least (or all there are) and at most: a fit takes the cube of their number."""


def candidates(state: SweepState) -> list[SweepTrial]:
    """The trials that the estimate is based on: completed ones of the search that meet the bounds, if there are any."""
    return [trial for trial in state.search_trials if trial.ranked and state.violation(trial) == 0]


def expected_gain(spec: SweepSpec, trials: Sequence[SweepTrial]) -> float | None:
    """How far the next trial is expected to be ahead of the best objective, at the best place to try.

    Needs torch, as Optuna's `gp` sampler does. Equal trials give an equal estimate.

    Args:
        spec: Of the sweep.
        trials: Of `candidates`.

    Returns:
        In the unit of the objective, 0 or more; None where it cannot be estimated: fewer than two trials that fit into
        the search space, or a model that cannot be fitted.
    """
    space = Space(spec)
    sign = -1.0 if spec.objective.mode == "max" else 1.0
    found = (_frozen(space, trial, sign) for trial in trials)
    known = _better_half([trial for trial in found if trial is not None])
    values = np.array([trial.value for trial in known], dtype=np.float64)
    if len(known) < 2 or not space.distributions:
        return None
    if not np.ptp(values):
        return 0.0
    try:
        return _largest_improvement(
            space.distributions, known, values, derived_seed(spec.search.seed, len(trials))
        )
    except (RuntimeError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        _log.warning("the gain of a further trial is not known: trials=%d error=%r", len(known), error)
        return None


def _frozen(space: Space, trial: SweepTrial, sign: float) -> FrozenTrial | None:
    """A completed trial as Optuna has it, lower is better; None for one that is not in the space any more."""
    try:
        optuna_params = space.encode(trial.params, trial.coordinates)
    except ValueError:
        return None
    return create_trial(
        state=TrialState.COMPLETE,
        value=sign * (trial.objective or 0.0),
        params=optuna_params,
        distributions=space.distributions,
    )


def _better_half(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    ranked = sorted(trials, key=lambda trial: math.inf if trial.value is None else trial.value)
    return ranked[: min(MOST, max(LEAST, len(ranked) // 2))]


def _largest_improvement(
    distributions: dict[str, BaseDistribution], trials: list[FrozenTrial], values: np.ndarray, seed: int
) -> float:
    # Optuna has no public name for its Gaussian process: its terminators, which use it, go with version 6, and its
    # sampler does not give the improvement that it expects. `tests/unit/search/test_enough.py` guards these names.
    from optuna._gp import acqf, gp, optim_mixed, prior, search_space

    space = search_space.SearchSpace(dict(sorted(distributions.items())))
    points = space.get_normalized_params(trials)
    spread = float(values.std())
    model = gp.fit_kernel_params(
        X=points,
        Y=-(values - values.mean()) / spread,
        is_categorical=space.is_categorical,
        log_prior=prior.default_log_prior,
        minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
        deterministic_objective=False,
    )
    means = acqf.UCB(gpr=model, search_space=space, beta=0.0).eval_acqf_no_grad(points)
    _, largest = optim_mixed.optimize_acqf_mixed(
        acqf.LogEI(gpr=model, search_space=space, threshold=float(means.max())),
        warmstart_normalized_params_array=points[np.argmax(means), np.newaxis],
        rng=np.random.RandomState(seed),
    )
    return math.exp(largest) * spread
