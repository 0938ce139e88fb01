"""The Optuna study of a sweep, in a journal file that ``optuna-dashboard RUN/study.journal`` opens.

One idea: the study is derived. The ledger is the truth, and :func:`rewrite_study` makes the study from it again after
a crash, under another name and then renamed, so that a torn journal never stands in the way.
"""
# MERGED Optuna's journal file, written by one driver.
# MERGED A study as the proposer sees it: which trial is which, what was proposed, who is still open.
# MERGED optuna-dashboard on a run's study: a second look at the search, in the browser, on this machine only.

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweepft.errors import SweepftError
from sweepft.search.samplers import UNDER_WAY, SamplerHistory
from sweepft.search.space import Param, config_key


class OneWriterJournal(BaseJournalBackend):
    """The journal as its only writer sees it; whoever else reads the file finds Optuna's format.

    Args:
        path: The file, made where it is missing; None keeps the journal in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._told: int | None = None  # lines handed out so far; None before the file has been read
        self._fresh: list[dict[str, Any]] = []  # appended since
        self._stored: list[dict[str, Any]] = []  # all lines, of a journal in memory
        if path is not None:
            path.touch()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Lines from this number on."""
        if log_number_from == self._told:
            found = self._fresh
        elif self._path is None:
            found = self._stored[log_number_from:]
        else:
            found = list(JournalFileBackend(str(self._path)).read_logs(log_number_from))
        self._told, self._fresh = log_number_from + len(found), []
        return found

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines in one write."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        fresh = [json.loads(line) for line in lines]
        if self._path is None:
            self._stored += fresh
        else:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, ("\n".join(lines) + "\n").encode())
            finally:
                os.close(file)
        self._fresh += fresh


STUDY_FILE: Final = "study.journal"


class StudyStorage(JournalStorage):
    """The storage of a study, which can show a sampler a part of a long history.

    Args:
        path: The journal file; None for a study in memory.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(OneWriterJournal(path))
        self._shown: Sequence[FrozenTrial] | None = None

    @contextlib.contextmanager
    def showing(self, trials: Sequence[FrozenTrial]) -> Iterator[None]:
        """While this holds, whoever asks for the trials of a study gets these."""
        self._shown = trials
        try:
            yield
        finally:
            self._shown = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials of a study, or those shown now."""
        if self._shown is None:
            return super().get_all_trials(study_id, deepcopy, states)
        found = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def open_study(path: Path | None, name: str) -> tuple[Study, StudyStorage]:
    """Open a sweep's study, or begin it. The direction is to minimise.

    Args:
        path: The journal file; None for a study in memory.
        name: Of the sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its greetings do not belong on a sweep's terminal
    storage = StudyStorage(path)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction="minimize",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(0),
        pruner=optuna.pruners.NopPruner(),
    )
    return study, storage


def rewrite_study(path: Path | None, name: str, trials: Sequence[FrozenTrial]) -> tuple[Study, StudyStorage]:
    """Replace a study by one that holds these trials, in this order, numbered from 0.

    What samplers noted in the old study (CMA-ES's state, the place in a QMC sequence) is kept for trials of the
    same number with the same parameters.
    """
    notes, by_number = _sampler_state(path, name)
    fresh = None if path is None else path.with_name(path.name + ".new")
    if fresh is not None:
        fresh.unlink(missing_ok=True)
    study, storage = open_study(fresh, name)
    study_id = storage.get_study_id_from_name(name)
    for key, value in notes.items():
        storage.set_study_system_attr(study_id, key, value)
    for number, trial in enumerate(trials):
        old = by_number.get(number)
        if old is not None and old.params == trial.params:
            trial.system_attrs = old.system_attrs
        study.add_trial(trial)
    if path is None or fresh is None:
        return study, storage
    os.replace(fresh, path)
    # A killed driver leaves its lock, which would hold us for 30 s. The ledger's lock says that we are alone.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return open_study(path, name)


def _sampler_state(path: Path | None, name: str) -> tuple[dict[str, Any], dict[int, FrozenTrial]]:
    if path is None or not path.exists():
        return {}, {}
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.load_study(study_name=name, storage=storage)
        notes = storage.get_study_system_attrs(storage.get_study_id_from_name(name))
        return dict(notes), {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    except (ValueError, KeyError, TypeError, AssertionError, OSError):
        # Damaged, in one of the ways Optuna's reader notices: the ledger holds all that cannot be done without.
        return {}, {}


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

    def __init__(self, study: Study, storage: StudyStorage, learned: SamplerHistory) -> None:
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

    def add(self, trial_id: str, number: int, optuna_params: Mapping[str, Param], origin: str) -> None:
        """Enter a proposed trial as open."""
        self.numbers[trial_id] = self.open[trial_id] = number
        if optuna_params:  # none: it no longer fits the space
            self.seen[config_key(optuna_params)] = trial_id
        self.started += origin == "start_with"
        self.cloned += origin == "clone"
        self._under_way[trial_id] = self.storage.get_trial(self._row(number))

    def history(self) -> list[FrozenTrial]:
        """What a sampler shall learn from, by number; see `sweepft.search.samplers`."""
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


_LOOPBACK: Final = "127.0.0.1"


def serve_dashboard(run_dir: Path, port: int) -> None:
    """Serve the dashboard on loopback until it is interrupted. A running sweep shows as it goes on.

    Args:
        run_dir: The run folder.
        port: To listen on.
    Raises:
        SweepftError: If the run has no study, optuna-dashboard is not installed, or the port is taken.
    """
    study = run_dir / STUDY_FILE
    if not study.is_file():
        raise SweepftError(
            f"{study}: is not there\n  name a run folder; the study is not part of a report's files"
        )
    if find_spec("optuna_dashboard") is None:
        raise SweepftError("optuna-dashboard is not installed\n  pip install 'sweepft[dashboard]'")
    from optuna_dashboard import run_server

    try:
        run_server(JournalStorage(JournalFileBackend(str(study))), host=_LOOPBACK, port=port)
    except OSError as error:
        raise SweepftError(f"--port {port}: {error.strerror or error}\n  name another port") from error
