"""The Optuna study of a sweep, in a journal file that ``optuna-dashboard RUN/study.journal`` opens.

The study is derived from the ledger: after a crash, `rewrite_study` builds it again under another name and renames it,
so that a damaged journal does no harm.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from sweepft.errors import SweepftError
from sweepft.extras import MissingPackages, missing
from sweepft.files import open_to_append
from sweepft.search.sampler_state import trusted_state
from sweepft.search.samplers import MAX_RUNNING, SamplerHistory
from sweepft.search.space import Param, config_key

STUDY_FILE: Final = "study.journal"
_CONSTRAINT: Final = "constraints:"
"""How Optuna's system attributes of constraints begin."""


def nominal_step(rung: float, budget_samples: int) -> int:
    """The step of a rung's objective in the study: its share of the budget in samples, equal for every trial."""
    return round(rung * budget_samples)


class SingleWriterJournal(BaseJournalBackend):
    """Optuna's journal file for a single writer, which need not read back its own lines.

    Args:
        path: The file, created if missing; None keeps the journal in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read: int | None = None  # lines returned so far; None before the file has been read
        self._fresh: list[dict[str, Any]] = []  # appended since
        self._stored: list[dict[str, Any]] = []  # all lines of a journal in memory
        if path is not None:
            os.close(open_to_append(path))

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Lines from this number on."""
        if log_number_from == self._read:
            found = self._fresh
        elif self._path is None:
            found = self._stored[log_number_from:]
        else:
            found = list(JournalFileBackend(str(self._path)).read_logs(log_number_from))
        self._read, self._fresh = log_number_from + len(found), []
        return found

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines in one write."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        fresh = [json.loads(line) for line in lines]
        if self._path is None:
            self._stored += fresh
        else:
            file = open_to_append(self._path)
            try:
                os.write(file, ("\n".join(lines) + "\n").encode())
            finally:
                os.close(file)
        self._fresh += fresh


class StudyStorage(JournalStorage):
    """The storage of a study, which can show a sampler a part of a long history.

    Args:
        path: The journal file; None for a study in memory.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(SingleWriterJournal(path))
        self._shown: Sequence[FrozenTrial] | None = None

    @contextlib.contextmanager
    def showing(self, trials: Sequence[FrozenTrial]) -> Iterator[None]:
        """Within this context, `get_all_trials` returns these trials."""
        self._shown = trials
        try:
            yield
        finally:
            self._shown = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials of a study, or those of `showing`."""
        if self._shown is None:
            return super().get_all_trials(study_id, deepcopy, states)
        found = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


Direction: TypeAlias = Literal["minimize", "maximize"]


def open_study(path: Path | None, name: str, direction: Direction = "minimize") -> tuple[Study, StudyStorage]:
    """Open or create the study of the sweep ``name``.

    Args:
        path: The journal file; None for a study in memory.
        name: Of the sweep.
        direction: Of a new study; one that exists keeps its own.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no info lines on the sweep's terminal
    storage = StudyStorage(path)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction=direction,
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(0),
        pruner=optuna.pruners.NopPruner(),
    )
    return study, storage


def rewrite_study(
    path: Path | None, name: str, trials: Sequence[FrozenTrial], direction: Direction = "minimize"
) -> tuple[Study, StudyStorage]:
    """Replace a study by one that holds these trials, in this order, numbered from 0.

    The samplers' state in the old study (CMA-ES, the position in a QMC sequence) is kept for trials with the same
    number and the same params.
    """
    notes, by_number = _sampler_state(path, name)
    fresh = None if path is None else path.with_name(path.name + ".new")
    if fresh is not None:
        fresh.unlink(missing_ok=True)
    study, storage = open_study(fresh, name, direction)
    study_id = storage.get_study_id_from_name(name)
    for key, value in notes.items():
        storage.set_study_system_attr(study_id, key, value)
    for number, trial in enumerate(trials):
        old = by_number.get(number)
        if old is not None and old.params == trial.params:
            constraints = trial.constraints  # those of the ledger: bounds may have changed
            trial.system_attrs = {
                key: value
                for key, value in trusted_state(old.system_attrs).items()
                if not key.startswith(_CONSTRAINT)
            }
            for key, value in constraints.items():
                trial.set_constraint(key, value)
        study.add_trial(trial)
    if path is None or fresh is None:
        return study, storage
    os.replace(fresh, path)
    # A killed driver leaves its lock, which would block for 30 s. The ledger's lock already excludes other writers.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return open_study(path, name, direction)


def _sampler_state(path: Path | None, name: str) -> tuple[dict[str, Any], dict[int, FrozenTrial]]:
    if path is None or not path.exists():
        return {}, {}
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.load_study(study_name=name, storage=storage)
        notes = storage.get_study_system_attrs(storage.get_study_id_from_name(name))
        return dict(notes), {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    except (ValueError, KeyError, TypeError, AssertionError, OSError):
        # Damaged, as Optuna's reader reports in several ways. The ledger has everything that is needed.
        return {}, {}


class StudyState:
    """An open study with its tables.

    Attributes:
        study: The study.
        storage: Its storage.
        numbers: Number in the study by trial id, of all proposed trials.
        open: The same, of those that have not ended.
        seen: Trial id by `config_key` of the params.
        started: Number of trials from ``start_with``.
        cloned: Number of clones.
    """

    def __init__(self, study: Study, storage: StudyStorage, sampler_history: SamplerHistory) -> None:
        self.study = study
        self.numbers: dict[str, int] = {}
        self.open: dict[str, int] = {}
        self.seen: dict[str, str] = {}
        self.started = 0
        self.cloned = 0
        self.storage = storage
        self._sampler_history = sampler_history
        self._running: dict[str, FrozenTrial] = {}
        self._study_id = storage.get_study_id_from_name(study.study_name)
        for trial in study.get_trials(deepcopy=False):
            trial_id = trial.user_attrs.get("trial_id")
            if trial_id is not None:
                self.add(trial_id, trial.number, trial.params, trial.user_attrs["origin"])
                if trial.state.is_finished():
                    self._over(trial_id, trial)
            elif not trial.state.is_finished():  # the driver died before it named the trial
                storage.set_trial_state_values(self._row(trial.number), TrialState.FAIL)

    def add(self, trial_id: str, number: int, optuna_params: Mapping[str, Param], origin: str) -> None:
        """Add a proposed trial as open."""
        self.numbers[trial_id] = self.open[trial_id] = number
        if optuna_params:  # empty if it no longer fits the space
            self.seen[config_key(optuna_params)] = trial_id
        self.started += origin == "start_with"
        self.cloned += origin == "clone"
        self._running[trial_id] = self.storage.get_trial(self._row(number))

    def history(self) -> list[FrozenTrial]:
        """Trials that a sampler learns from, by number; see `sweepft.search.samplers`."""
        running = sorted(self._running.values(), key=lambda trial: trial.number)[-MAX_RUNNING:]
        return sorted([*self._sampler_history.trials(), *running], key=lambda trial: trial.number)

    def values(self, trial_id: str) -> dict[int, float]:
        """Objectives of a trial by `nominal_step`."""
        return self.storage.get_trial(self._row(self.numbers[trial_id])).intermediate_values

    def report(self, trial_id: str, step: int, value: float) -> None:
        """Record an objective of an open trial; the first one at a step counts."""
        if step not in self.values(trial_id):
            self.storage.set_trial_intermediate_value(self._row(self.open[trial_id]), step, float(value))

    def close(
        self,
        trial_id: str,
        state: TrialState,
        value: float | None,
        attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> None:
        """End an open trial; ``constraints`` are 0 or less where they are met."""
        number = self.open[trial_id]
        trial = Trial(self.study, self._row(number))
        for name, over in constraints.items():
            trial.set_constraint(name, over)
        for key, attr in attrs.items():
            self.storage.set_trial_user_attr(self._row(number), key, attr)
        self._over(trial_id, self.study.tell(number, value, state))

    def _over(self, trial_id: str, trial: FrozenTrial) -> None:
        del self.open[trial_id], self._running[trial_id]
        self._sampler_history.add(trial)

    def _row(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def serve_dashboard(run_dir: Path, port: int) -> None:
    """Serve optuna-dashboard for a run's study on loopback until it is interrupted; a running sweep updates live.

    Raises:
        SweepftError: If the run has no study, or the port is taken.
        MissingPackages: If optuna-dashboard is not installed.
    """
    study = run_dir / STUDY_FILE
    if not study.is_file():
        raise SweepftError(
            f"{study}: does not exist\n  give a run folder; a report's files do not include the study",
            key="dashboard.study",
        )
    problem = missing("optuna_dashboard", "sweepft dashboard", "dashboard.missing")
    if problem is not None:
        raise MissingPackages([problem])
    from optuna_dashboard import run_server

    try:
        run_server(JournalStorage(JournalFileBackend(str(study))), host="127.0.0.1", port=port)
    except OSError as error:
        message = f"--port {port}: {error.strerror or error}\n  give another port"
        raise SweepftError(message, key="dashboard.port") from error
