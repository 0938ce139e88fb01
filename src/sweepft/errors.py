"""Every error sweepft raises on purpose, in one tree.

SweepftError                  anything sweepft refuses or cannot do; the command line exits 1
├── SpecError                 the sweep's YAML, its overrides or the files it names are wrong; exits 2
├── DataError                 training or held-out data cannot be read or used; exits 2
├── LedgerError               the run folder's ledger cannot be trusted
│   ├── LedgerCorrupt         a row inside the ledger is damaged
│   ├── LedgerVersion         written by an unknown schema version
│   └── LedgerLocked          another driver writes this run
├── ResourceError             the cluster cannot hold what the spec asks for
├── SlotLost                  no node has room for a slot's ranks any more; its trial goes on on another slot
├── StorageError              the run folder cannot be written (full, read-only)
├── TrialError                one trial cannot go on
│   ├── RankMismatch          ranks disagree on config, data, weights or versions
│   ├── RankFailed            a rank died or raised
│   │   ├── RankDied          a rank's process is gone
│   │   ├── RankOutOfMemory   a rank ran out of device memory
│   │   ├── RankCannotWrite   a rank's storage is full or read-only
│   │   └── PackingMismatch   packed samples give other losses than padded ones
│   └── RankHung              a rank gave no sign of life in time
├── EvaluateError             a benchmark task, or its data, cannot be had; exits 2
├── JudgeError                the judge of MT-Bench refuses, or cannot be reached
├── CommandError              a command on a running sweep makes no sense, or nobody takes it; exits 2
├── JobError                  a Ray Job cannot be submitted or reached; exits 2
├── MirrorError               a mirror cannot be reached or used, or is not what it was written as; exits 2
├── ReplayError               recorded curves cannot be read or mapped; exits 2
└── HistoryError              what `history` names cannot be used; a ValueError too; exits 2
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_STORAGE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, which rule, which value, what to do.

    Attributes:
        where: ``file:line`` (1-based), or ``--set`` for an override, or a data file and row.
        key: Dotted key, e.g. ``search.space.batch_size``.
        rule: What must hold, as a sentence without a full stop.
        value: The value found (shown shortened), or None when something is missing.
        remedy: What the reader can do about it.
    """

    where: str
    key: str
    rule: str
    remedy: str
    value: Any = None

    def __str__(self) -> str:
        shown = "" if self.value is None else f" (got {_short(self.value)})"
        return f"{self.where}: {self.key}: {self.rule}{shown}\n  {self.remedy}"


class SweepftError(Exception):
    """Anything sweepft refuses or cannot do."""

    exit_code = 1


class ProblemsError(SweepftError):
    """An error that carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.problems,))


class SpecError(ProblemsError):
    """The sweep's YAML, its overrides or the files it names are wrong."""


class DataError(ProblemsError):
    """Training or held-out data cannot be read or used."""


class CommandError(ProblemsError):
    """A command on a running sweep makes no sense, or nobody is there to take it."""


class JobError(ProblemsError):
    """A Ray Job cannot be submitted or reached."""


class LedgerError(SweepftError):
    """The run folder's ledger cannot be trusted."""


class LedgerCorrupt(LedgerError):
    """A row inside the ledger is damaged; the message names the row."""


class LedgerVersion(LedgerError):
    """The ledger was written by an unknown schema version."""


class LedgerLocked(LedgerError):
    """Another driver writes this run; the message names its host and pid."""


class ResourceError(SweepftError):
    """The cluster cannot hold what the spec asks for."""

    exit_code = 2


class SlotLost(SweepftError):
    """No node has room for a slot's ranks any more: the slot ends, and its trial goes on on another one."""


class StorageError(SweepftError):
    """The run folder cannot be written: full, read-only or gone."""


class TrialError(SweepftError):
    """One trial cannot go on."""


class RankMismatch(TrialError):
    """Ranks disagree on config, data, weights or versions; the message names rank and field."""


class RankFailed(TrialError):
    """A rank died or raised."""


class RankDied(RankFailed):
    """A rank's process is gone."""


class RankOutOfMemory(RankFailed):
    """A rank ran out of device memory; a smaller micro-batch may fit."""


class RankCannotWrite(RankFailed):
    """A rank's storage is full or read-only: new ranks would find the same, and so would other trials."""


class PackingMismatch(RankFailed):
    """Packed samples give other losses than padded ones: this model must not be packed."""


class RankHung(TrialError):
    """A rank gave no sign of life within its time."""


class EvaluateError(SweepftError):
    """A benchmark task, or its data, cannot be had."""

    exit_code = 2


class JudgeError(SweepftError):
    """The judge of MT-Bench refuses, or cannot be reached while verdicts are missing."""


class MirrorError(SweepftError):
    """A mirror cannot be reached or used, is another run's, or is not what it was written as."""

    exit_code = 2


class ReplayError(SweepftError):
    """Recorded curves cannot be read or mapped to what a rule needs."""

    exit_code = 2


class HistoryError(SweepftError, ValueError):
    """An entry of ``history`` cannot be used: no calibration, no ledger, or of a sweep that was run otherwise.

    Args:
        entry: As given.
        rule: What must hold, or what is wrong with it.
        remedy: What the reader can do about it.
    """

    exit_code = 2

    def __init__(self, entry: str, rule: str, remedy: str) -> None:
        self.entry, self.rule, self.remedy = entry, rule, remedy
        super().__init__(f"history: {entry[:200]} {rule}\n  {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.entry, self.rule, self.remedy))


def is_storage_error(error: BaseException) -> bool:
    """Whether an error says that a disk is full, over quota or read-only: its ``errno``, or its text as Rust has it."""
    if getattr(error, "errno", None) in _STORAGE:
        return True
    return any(f"(os error {number})" in str(error) for number in _STORAGE)


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
