"""A study as the proposer sees it: which trial is which, what was proposed, who is still open.

One idea: all of it is read from the study, so that a study opened again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweepft.search.distributions import Param, identity
from sweepft.search.learned import UNDER_WAY, Learned
from sweepft.search.study import StudyStorage

__all__ = ["StudyState"]


class StudyState:
    """An open study with its tables.

    Attributes:
        study: The study.
        numbers: Number in the study by trial id, of every trial proposed.
        open: The same, of those that have not ended.
        seen: Trial id by identity of the parameters.
        started: Trials that came from ``start_with``.
        cloned: Trials that a person asked for.
        storage: Where it is kept.
    """

    def __init__(self, study: Study, storage: StudyStorage, learned: Learned) -> None:
        self.study = study
        self.numbers: dict[str, int] = {}
        self.open: dict[str, int] = {}
        self.seen: dict[str, str] = {}
        self.started = 0
        self.cloned = 0
        self.storage = storage
        self._learned = learned
        self._under_way: dict[str, FrozenTrial] = {}
        self._study_id = storage.get_study_id_from_name(study.study_name)
        for trial in study.get_trials(deepcopy=False):
            trial_id = trial.user_attrs.get("trial_id")
            if trial_id is not None:
                self.add(trial_id, trial.number, trial.params, trial.user_attrs["origin"])
                if trial.state.is_finished():
                    self._over(trial_id, trial)
            elif not trial.state.is_finished():  # the driver died between asking and naming
                storage.set_trial_state_values(self._row(trial.number), TrialState.FAIL)

    def add(self, trial_id: str, number: int, params: Mapping[str, Param], origin: str) -> None:
        """Enter a proposed trial as open."""
        self.numbers[trial_id] = self.open[trial_id] = number
        if params:  # none: it no longer fits the space
            self.seen[identity(params)] = trial_id
        self.started += origin == "start_with"
        self.cloned += origin == "clone"
        self._under_way[trial_id] = self.storage.get_trial(self._row(number))

    def history(self) -> list[FrozenTrial]:
        """What a sampler shall learn from, by number; see `sweepft.search.learned`."""
        under_way = sorted(self._under_way.values(), key=lambda trial: trial.number)[-UNDER_WAY:]
        return sorted([*self._learned.trials(), *under_way], key=lambda trial: trial.number)

    def values(self, trial_id: str) -> dict[int, float]:
        """Held-out losses of a trial by nominal samples."""
        return self.storage.get_trial(self._row(self.numbers[trial_id])).intermediate_values

    def report(self, trial_id: str, step: int, value: float) -> None:
        """Note a held-out loss of an open trial; the first one at a step counts."""
        if step not in self.values(trial_id):
            self.storage.set_trial_intermediate_value(self._row(self.open[trial_id]), step, float(value))

    def close(self, trial_id: str, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> None:
        """End an open trial."""
        number = self.open[trial_id]
        for key, attr in attrs.items():
            self.storage.set_trial_user_attr(self._row(number), key, attr)
        self._over(trial_id, self.study.tell(number, value, state))

    def _over(self, trial_id: str, trial: FrozenTrial) -> None:
        del self.open[trial_id], self._under_way[trial_id]
        self._learned.add(trial)

    def _row(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
