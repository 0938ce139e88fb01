"""Trials of earlier sweeps, shown to a sampler beside the sweep's own (``search.learn_from``).

Their objectives are replaced: a trial at a place of the ranking of its sweep is given the one that stands at that place
among this sweep's completed trials. Fewer are shown the more trials this sweep has itself, and every fourth start-up
trial is proposed without them, so earlier sweeps that mislead cost trials but exclude nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from sweepft.search.prior import explores, value_at
from sweepft.search.samplers import derived_seed, startup_trials
from sweepft.search.space import Param, ParamMapping, Space
from sweepft.spec import SweepSpec
from sweepft.spec.learn_from import EarlierSweep, EarlierTrial

SHOWN: Final = 20
"""Trials of earlier sweeps that a sampler is shown at first."""

_OWN_SCALE: Final = 4
"""Completed trials from which on objectives are those of this sweep's own quantiles."""


class Learned:
    """The trials of earlier sweeps.

    Args:
        sweeps: As the new sweep's ledger records them.
        space: Of the new sweep.
        spec: Of the new sweep.
    """

    def __init__(self, sweeps: Sequence[EarlierSweep], space: Space, spec: SweepSpec) -> None:
        search = spec.search
        self._space = space
        self._maximize = spec.objective.mode == "max"
        self._startup = startup_trials(search.trials)
        entries = [(trial, sweep.spread) for sweep in sweeps for trial in sweep.trials]
        entries.sort(key=lambda entry: entry[0].place)
        rng = np.random.default_rng(derived_seed(search.seed, "learned"))
        self._trials = [(self._optuna_params(trial, rng), trial) for trial, _ in entries]
        self._spread = float(np.median([spread for _, spread in entries])) if entries else 1.0

    def trials(self, number: int, own: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """What a sampler is shown when it proposes a trial.

        Args:
            number: Of the trial to propose.
            own: Trials of this sweep that the sampler learns from.
        """
        ended = sum(trial.state.is_finished() for trial in own)
        if not self._trials or explores(number, self._startup):
            return []
        shown = min(len(self._trials), math.ceil(SHOWN * self._startup / (self._startup + ended)))
        places = np.linspace(0, len(self._trials) - 1, shown).round().astype(int)
        finals = [t.value for t in own if t.state == TrialState.COMPLETE and t.value is not None]
        found = []
        for i, place in enumerate(places):
            params, trial = self._trials[place]
            made = create_trial(
                state=TrialState.COMPLETE,
                value=self._value(trial.place, finals),
                params=params,
                distributions=self._space.distributions,
                constraints=dict(trial.over),
            )
            made.number = i - shown  # before all of this sweep's
            found.append(made)
        return found

    def _value(self, place: float, finals: Sequence[float]) -> float:
        """The objective that stands for a place in a ranking."""
        place = 1 - place if self._maximize else place
        if len(finals) >= _OWN_SCALE:
            return float(np.quantile(finals, place))
        middle = float(np.median(finals)) if finals else 0.0
        return middle + self._spread * float(stats.norm.ppf(place))

    def _optuna_params(self, trial: EarlierTrial, rng: np.random.Generator) -> dict[str, Param]:
        """Parameters of a trial. What is not known of it is drawn at random, so that it says nothing."""
        return {
            mapping.param: mapping.encode(trial.values[key]) if key in trial.values else _any_of(mapping, rng)
            for key, mapping in self._space.mappings.items()
        }


def _any_of(mapping: ParamMapping, rng: np.random.Generator) -> Any:
    if mapping.values is not None:
        assert mapping.size is not None
        return mapping.nth(int(rng.integers(mapping.size)))
    assert isinstance(mapping.distribution, FloatDistribution | IntDistribution)
    return value_at(float(rng.random()), mapping.distribution)
