"""The Optuna study of a sweep, in a journal file that ``optuna-dashboard RUN/study.journal`` opens.

One idea: the study is derived. The ledger is the truth, and :func:`rewrite_study` makes the study from it again after
a crash, under another name and then renamed, so that a torn journal never stands in the way.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweepft.search.journal import OneWriterJournal

__all__ = ["STUDY_FILE", "StudyStorage", "open_study", "rewrite_study"]

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
