"""Proposes trials by ask and tell on an Optuna study.

Everything the proposer knows is in the study, and every trial ends in it (`sweepft.search.trial_records`). A paused
trial stays open (RUNNING) until it is resumed or stopped. Params that were proposed before are marked FAIL at once and
asked again, so that nothing is trained twice.

Bounds on validation losses (``search.subject_to``) are Optuna constraints of the ended trials: of a completed one by
its final losses, of another one by the last that were measured. While the base model's loss is not known, ended trials
are open in the study.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweepft.ledger import SweepState
from sweepft.search.learned import Learned
from sweepft.search.samplers import LATEST, SamplerHistory, derived_seed, random_sampler, sampler_for
from sweepft.search.space import Param, Space, config_key
from sweepft.search.study import Direction, StudyState, StudyStorage, open_study, rewrite_study
from sweepft.search.trial_records import attrs_of, constraints_of, ending_of, finite, frozen_trial
from sweepft.spec import SweepSpec
from sweepft.spec.learn_from import EarlierSweep
from sweepft.spec.space import same

Origin = Literal["start_with", "sampler", "clone"]

_SAMPLER_TRIES: Final = 8
"""How often a sampler may propose what was tried before random search takes its place."""

_ORIGINS: Final[dict[str, Origin]] = {"start_with": "start_with", "clone": "clone"}

_LEARN_FROM_FEW: Final = ("tpe", "gp", "qmc", "random")
"""Samplers that work as well with a part of a long history. CMA-ES is not one: it counts its generations in all of
it.
"""

_ENUMERABLE: Final = 100_000
"""The largest space whose params are enumerated one by one."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Attributes:
        trial_id: ``t000``, ``t001``, ... in the order of proposal.
        number: The same as a number.
        params: Swept field to value, for every key of ``search.space``.
        origin: Where it comes from; a clone was requested by a user while the sweep ran.
        study_number: Number of the trial in the Optuna study, which also counts repeated params.
        resumed: Whether the trial had started before, and was interrupted or paused.
        coordinates: Values on the sampler's own scale where these differ from ``params``.
    """

    trial_id: str
    number: int
    params: dict[str, Any]
    origin: Origin
    study_number: int
    resumed: bool = False
    coordinates: Mapping[str, Any] = field(default_factory=dict)


class Proposer:
    """Proposes the trials of a sweep, one at a time.

    It pickles without its study, which is opened again when needed; a study in memory is lost.

    Args:
        spec: The sweep.
        storage: The study's journal file, or None for a study in memory.
        latest: Most finished trials that the sampler looks at; None for all. See `sweepft.search.samplers`.
        earlier: Earlier sweeps to learn from; see `sweepft.search.learned`.

    Attributes:
        paused: Paused trials by trial id.
        limits: Largest loss allowed by bounded validation set; None while the base model's loss is not known.
        trials: Number of trials to propose without clones: ``search.trials``, or more after an extension.
    """

    def __init__(
        self,
        spec: SweepSpec,
        storage: Path | None,
        latest: int | None = LATEST,
        earlier: Sequence[EarlierSweep] = (),
    ) -> None:
        self.spec = spec
        self.space = Space(spec)
        self._path = storage
        self._latest = latest
        self._learned = Learned(earlier, self.space, spec)
        self._opened: StudyState | None = None
        self._waiting: list[Proposal] = []
        self._clones: list[dict[str, Param]] = []
        self.trials = spec.search.trials
        self.paused: dict[str, Proposal] = {}
        self.limits: Mapping[str, float] | None = {}
        self._losses: dict[str, Mapping[str, float | None]] = {}  # last ones, by open trial
        self._untold: dict[str, tuple[str, float | None, str | None]] = {}  # ended, while limits are unknown
        self._order: list[int] = []  # of a finite space, seeded; all before `_tried` are proposed
        self._tried = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def study(self) -> Study:
        """The Optuna study."""
        return self._state.study

    @property
    def proposed(self) -> int:
        """Trials proposed so far."""
        return len(self._state.numbers)

    @property
    def waiting(self) -> int:
        """Number of interrupted trials that are proposed next."""
        return len(self._waiting)

    def ask(self) -> Proposal | None:
        """The next trial, or None when all ``trials`` are proposed or the space is exhausted.

        After `rebuild`, interrupted trials come first, then clones.
        """
        if self._waiting:
            return self.next_waiting()
        self._tell_untold()
        state, search = self._state, self.spec.search
        number = len(state.numbers)
        while self._clones:
            optuna_params = self._clones.pop(0)
            state.study.sampler = random_sampler(
                search, number, 0
            )  # all params are fixed, so nothing is drawn
            proposal = self._ask_once(state, number, optuna_params, optuna_params, "clone")
            if proposal is not None:
                return proposal
        if self.trials is not None and number - state.cloned >= self.trials:
            return None
        if self.space.size is not None and len(state.seen) >= self.space.size:
            return None
        start = self._next_start(state)
        enumerable = self.space.size is not None and self.space.size <= _ENUMERABLE
        for attempt in itertools.count():
            early = attempt < _SAMPLER_TRIES
            wanted = self.space.encode(start) if start is not None and early else {}
            fixed = wanted
            if search.sampler == "grid" or (not early and enumerable):
                fixed = self._untried(state, wanted)
            if early:
                parallel = self.spec.resources.concurrent_trials > 1 or self.spec.early_stop.pause
                state.study.sampler = sampler_for(
                    search, number, attempt, parallel=parallel, space=self.space.distributions
                )
            else:
                state.study.sampler = random_sampler(search, number, attempt)
            proposal = self._ask_once(state, number, fixed, wanted)
            if proposal is not None:
                return proposal
        raise AssertionError("the loop above does not end")

    def next_waiting(self) -> Proposal | None:
        """The next interrupted trial, if one is left."""
        return self._waiting.pop(0) if self._waiting else None

    def clone(self, params: Mapping[str, Any]) -> None:
        """Propose these params next.

        Raises:
            ValueError: If they are not in the space, are incomplete, or were proposed before.
        """
        optuna_params = self.space.encode(params)
        missing = sorted(self.space.mappings.keys() - params.keys())
        if missing:
            raise ValueError(f"not complete: {', '.join(missing)}")
        name = self._state.seen.get(config_key(optuna_params))
        if name is not None or optuna_params in self._clones:
            raise ValueError(f"tried already: {name or 'a clone that is waiting for a slot'}")
        self._clones.append(optuna_params)

    def pause(self, proposal: Proposal) -> None:
        """Keep a paused trial open."""
        self.paused[proposal.trial_id] = replace(proposal, resumed=True)

    def bring_back(self, trial_id: str) -> Proposal:
        """Resume a paused trial."""
        return self.paused.pop(trial_id)

    def recall(self, trial_id: str) -> None:
        """Propose a paused trial next."""
        self._waiting.append(self.paused.pop(trial_id))

    def report(
        self, trial_id: str, step: int, value: float | None, losses: Mapping[str, float | None] | None = None
    ) -> None:
        """Record the objective and the validation losses of a running trial.

        Args:
            trial_id: Of the proposal.
            step: `nominal_step` of the rung, which is the same for every trial of the sweep.
            value: The objective there, None if it was not measured. Ignored if it is not finite, or a second one for
                the step.
            losses: By validation set, and costs by task; what was not measured keeps its last one.
        """
        state = self._state
        if trial_id in state.open and losses:
            self._losses[trial_id] = {**self._losses.get(trial_id, {}), **losses}
        if trial_id in state.open and value is not None and math.isfinite(value):
            state.report(trial_id, step, value)

    def tell(self, trial_id: str, status: str, value: float | None = None, reason: str | None = None) -> None:
        """Record how a trial ended; ignored for a trial that has ended.

        Args:
            trial_id: Of the proposal.
            status: ``completed | stopped | diverged | failed | interrupted``.
            value: The objective at full budget, of a completed trial. If it is not finite, the trial diverged.
            reason: Why it ended.

        Raises:
            KeyError: If no such trial was proposed.
            ValueError: If the status is none of these.
        """
        state = self._state
        if trial_id not in state.numbers:
            raise KeyError(f"trial {trial_id} was not proposed here; {len(state.numbers)} trials were")
        if trial_id not in state.open or trial_id in self._untold:
            return
        self.paused.pop(trial_id, None)
        self._waiting = [waiting for waiting in self._waiting if waiting.trial_id != trial_id]
        if self.limits is None:
            self._untold[trial_id] = status, value, reason
        else:
            self._close(trial_id, status, value, reason)

    def _close(self, trial_id: str, status: str, value: float | None, reason: str | None) -> None:
        state = self._state
        ending, value, attrs = ending_of(status, value, reason, bool(state.values(trial_id)))
        constraints = constraints_of(ending, self._losses.pop(trial_id, {}), self.limits or {})
        state.close(trial_id, ending, value, attrs, constraints)

    def _tell_untold(self, *, all_of_them: bool = False) -> None:
        """Close the trials that ended while the limits were unknown."""
        if self.limits is not None or all_of_them:
            untold, self._untold = self._untold, {}
            for trial_id, ended in untold.items():
                self._close(trial_id, *ended)

    def close(self, reason: str = "the sweep ended") -> None:
        """End every open trial as interrupted, so that none stays RUNNING."""
        self._tell_untold(all_of_them=True)
        for trial_id in list(self._state.open):
            self.tell(trial_id, "interrupted", reason=reason)

    def rebuild(self, state: SweepState) -> list[Proposal]:
        """Rebuild the study from the sweep's ledger; the study's old content does not matter.

        Returns:
            Trials that had not ended, which `ask` proposes first, with their validation losses in place. Paused ones
            are in ``paused`` instead.
        """
        self.limits = None if state.bounds.pending else state.bounds.limits
        self._losses, self._untold = {}, {}
        records = sorted(state.search_trials, key=lambda trial: trial.number)
        trials: list[FrozenTrial] = []
        for record in records:
            while record.study_number is not None and len(trials) < record.study_number:
                trials.append(create_trial(state=TrialState.FAIL, user_attrs={"reason": "proposed before"}))
            trials.append(frozen_trial(record, self.space, self.limits))
        self._opened = self._state_of(rewrite_study(self._path, self.spec.name, trials, self._direction))
        self._waiting, self.paused, self._tried = [], {}, 0
        for record in records:
            number = self._opened.open.get(record.trial_id)
            if number is None:
                continue
            self._losses[record.trial_id] = record.losses
            if record.end is not None and record.status != "interrupted":  # the limits are unknown
                self._untold[record.trial_id] = record.status, finite(record.objective), record.reason
                continue
            origin = _ORIGINS.get(record.origin, "sampler")
            proposal = Proposal(
                record.trial_id,
                record.number,
                dict(record.params),
                origin,
                number,
                resumed=True,
                coordinates=record.coordinates,
            )
            if record.is_paused:
                self.pause(proposal)
            else:
                self._waiting.append(proposal)
        return list(self._waiting)

    @property
    def _state(self) -> StudyState:
        if self._opened is None:
            self._opened = self._state_of(open_study(self._path, self.spec.name, self._direction))
        return self._opened

    def _state_of(self, opened: tuple[Study, StudyStorage]) -> StudyState:
        return StudyState(*opened, SamplerHistory(self._latest, maximize=self._direction == "maximize"))

    @property
    def _direction(self) -> Direction:
        return "minimize" if self.spec.objective.mode == "min" else "maximize"

    def _next_start(self, state: StudyState) -> Mapping[str, Any] | None:
        entries: list[Mapping[str, Any]] = []
        for entry in self.spec.search.first_trials.values():
            if not any(same(dict(entry), dict(other)) for other in entries):
                entries.append(entry)
        for entry in entries[state.started :]:
            optuna_params = self.space.encode(entry)
            if len(optuna_params) < len(self.space.mappings) or config_key(optuna_params) not in state.seen:
                return entry
        return None

    def _ask_once(
        self,
        state: StudyState,
        number: int,
        fixed: Mapping[str, Param],
        wanted: Mapping[str, Param],
        origin: Origin = "start_with",
    ) -> Proposal | None:
        """Ask with some params fixed; None if the proposal was tried before, which ends as FAIL in the study."""
        if fixed or self.spec.search.sampler not in _LEARN_FROM_FEW:
            if fixed:
                state.study.enqueue_trial(dict(fixed))
            trial = state.study.ask(self.space.distributions)
        else:
            own = state.history()
            with state.storage.showing([*self._learned.trials(number, own), *own]):
                trial = state.study.ask(self.space.distributions)
        seen = state.seen.get(config_key(trial.params))
        if seen is not None:
            trial.set_user_attr("duplicate_of", seen)
            state.study.tell(trial, state=TrialState.FAIL)
            return None
        as_wanted = bool(wanted) and all(trial.params[key] == value for key, value in wanted.items())
        proposal = Proposal(
            f"t{number:03d}",
            number,
            self.space.decode(trial.params),
            origin if as_wanted else "sampler",
            trial.number,
            coordinates=self.space.coordinates(trial.params),
        )
        for key, value in attrs_of(proposal.trial_id, proposal.params, proposal.origin).items():
            trial.set_user_attr(key, value)
        state.add(proposal.trial_id, trial.number, trial.params, proposal.origin)
        return proposal

    def _untried(self, state: StudyState, wanted: Mapping[str, Param]) -> dict[str, Param]:
        """Params of a finite space that were not proposed, in a seeded order; with the wanted values if any are
        left.
        """
        assert self.space.size is not None
        if not self._order:
            self._order = list(range(self.space.size))
            random.Random(derived_seed(self.spec.search.seed, "grid")).shuffle(self._order)
        order = self._order
        while self._tried < len(order) and config_key(self.space.nth(order[self._tried])) in state.seen:
            self._tried += 1  # proposed params stay proposed: skip them from now on
        ahead = (self.space.nth(place) for place in itertools.islice(order, self._tried, None))
        left = (optuna_params for optuna_params in ahead if config_key(optuna_params) not in state.seen)
        first: dict[str, Param] = {}
        for optuna_params in left:
            if all(optuna_params[key] == value for key, value in wanted.items()):
                return optuna_params
            first = first or optuna_params
        return first
