"""Every error that sweepft raises on purpose, in one tree.

Each error has a stable ``key`` that names what went wrong, for tests and programs; the text is for people and may
change. Errors that list several problems have one key a problem: the dotted key of the spec, of the data file or of
the command that is wrong. ``exit_code`` is what the command line exits with: 2 when the input is wrong, else 1.
(Over 400 lines: a list of short classes; what can go wrong is read in one place.)
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_SIGPIPE_STATUS: Final = 128 + 13
"""What a shell shows for a program whose reader closed the pipe."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_BROKEN: Final = (errno.EIO, errno.ESTALE, errno.ENOTCONN)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, which rule, which value, what to do.

    Attributes:
        where: ``file:line`` (1-based), or ``--set`` for an override, or a data file and row.
        key: Dotted key, e.g. ``search.space.batch_size``.
        rule: The rule that is broken, without a full stop.
        value: The value found (shown shortened), or None when something is missing.
        remedy: What the user can do about it.
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
    """Anything sweepft refuses or cannot do.

    Attributes:
        key: What went wrong, as a stable name such as ``mirror.unreachable``; the kind of error where none is given.
    """

    exit_code = 1
    key = "error"

    def __init__(self, message: str = "", *, key: str | None = None) -> None:
        super().__init__(message)
        if key is not None:
            self.key = key

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all problems, ``(key,)`` where there is one."""
        return (self.key,)


class ProblemsError(SweepftError):
    """An error that carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0].key if self.problems else None
        super().__init__("\n".join(str(p) for p in self.problems), key=first)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each problem, in the order in which they were found."""
        return tuple(problem.key for problem in self.problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.problems,))


class SpecError(ProblemsError):
    """The sweep's YAML, its overrides or the files it names are wrong."""


class DataError(ProblemsError):
    """Training, validation or test data cannot be read or used."""


class CommandError(ProblemsError):
    """A command on a running sweep is invalid, or no driver is running to accept it."""


class JobError(ProblemsError):
    """A Ray Job cannot be submitted or reached."""


class ClusterError(ProblemsError):
    """The Ray cluster that an address names cannot be joined."""


class LedgerError(SweepftError):
    """The run folder's ledger cannot be trusted."""

    key = "ledger"


class LedgerCorrupt(LedgerError):
    """A row inside the ledger is damaged; the message names the row."""

    key = "ledger.corrupt"


class LedgerVersion(LedgerError):
    """The ledger was written by an unknown schema version."""

    key = "ledger.version"


class LedgerLocked(LedgerError):
    """Another driver is writing to this run; the message names its host and pid."""

    key = "ledger.locked"


class LeaseLost(LedgerLocked):
    """Another driver has taken this run over, as it may after this one gave no sign of life for long."""

    key = "ledger.lease_lost"


class ResourceError(SweepftError):
    """The cluster cannot hold what the spec asks for."""

    exit_code = 2
    key = "resources"


class SlotLost(SweepftError):
    """No node has room for a slot's ranks any more. The slot ends; its trial resumes on another slot."""

    key = "slot.lost"


class StorageError(SweepftError):
    """The run folder cannot be written: full, read-only or gone."""

    key = "storage"


class UnsafePath(SweepftError):
    """A path in a run folder is a link, or leads out of the folder."""

    key = "run_dir.path"


class EnvironmentFault(SweepftError):
    """A slot cannot train or score, whatever the settings: its storage, GPU, packages or files.

    Args:
        message: Cause and remedy.
        certain: False if no trial of the sweep has taken a step yet, so that the settings may be the cause after all.
        nodes: Ray's ids of the nodes of the ranks that failed; of all ranks where it is unknown which one did.
        control_failed: Whether another trial, which has trained before, could not start there either.
        gpus: Of these ranks, each with Ray's ids of node and GPU; empty without GPUs, or where they are unknown.
    """

    key = "environment"

    def __init__(
        self,
        message: str,
        certain: bool = True,
        nodes: Sequence[str] = (),
        control_failed: bool = False,
        gpus: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.certain = certain
        self.nodes = tuple(nodes)
        self.control_failed = control_failed
        self.gpus = tuple(gpus)


class OutputError(SweepftError):
    """Standard output of a command cannot be written.

    Args:
        cause: What the system said.
    """

    key = "output"

    def __init__(self, cause: OSError) -> None:
        self.closed = cause.errno == errno.EPIPE
        self.exit_code = _SIGPIPE_STATUS if self.closed else 1
        super().__init__(f"standard output cannot be written: {cause.strerror or cause}")


class TrialError(SweepftError):
    """One trial cannot go on.

    Attributes:
        method: What the ranks were asked for; None outside them.
        ranks: The ranks that failed; empty where it is unknown which one did.
        nodes: Ray's ids of their nodes.
        gpus: Their GPUs, each with Ray's ids of node and GPU.
    """

    key = "trial"
    method: str | None = None
    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    gpus: tuple[tuple[str, str], ...] = ()


class RankMismatch(TrialError):
    """Ranks disagree on config, data, weights or versions; the message names rank and field."""

    key = "rank.mismatch"


class RankFailed(TrialError):
    """A rank died or raised."""

    key = "rank.failed"


class RankDied(RankFailed):
    """A rank's process is gone."""

    key = "rank.died"


class RankOutOfMemory(RankFailed):
    """A rank ran out of device memory; a smaller micro-batch may fit."""

    key = "rank.out_of_memory"


class HostOutOfMemory(RankOutOfMemory):
    """Ray ended a rank because its node's main memory ran out."""

    key = "rank.host_out_of_memory"


class RankCannotWrite(RankFailed):
    """A rank's storage is full, read-only or broken. New ranks and other trials would fail in the same way."""

    key = "rank.cannot_write"


class RankCannotMeasure(RankFailed):
    """The user's own function cannot score an answer. New ranks would raise the same."""

    key = "rank.cannot_measure"


class RankEnvironment(RankFailed):
    """A rank lacks a file, a package, a compiler or a working GPU."""

    key = "rank.environment"


class PackingMismatch(RankFailed):
    """Packed samples give other losses than padded ones, so this model must not be packed."""

    key = "rank.packing_mismatch"


class LigerMismatch(RankFailed):
    """Liger's kernels give other losses than the model's own."""

    key = "rank.liger_mismatch"


class ExportMismatch(RankFailed):
    """Written weights, read back by transformers and peft, are not the trained ones."""

    key = "rank.export_mismatch"


class RankHung(TrialError):
    """A rank did not respond within its time limit."""

    key = "rank.hung"


class EvaluateError(SweepftError):
    """A benchmark task or its data cannot be loaded."""

    exit_code = 2
    key = "evaluate"


class OwnMetricError(EvaluateError):
    """A metric of the user's own cannot be used: its rows, its file, its function, or what that returns."""

    key = "objective.own"


class JudgeError(SweepftError):
    """The judge of MT-Bench refuses, or cannot be reached while verdicts are missing."""

    key = "mt_bench"


class MirrorError(SweepftError):
    """A mirror cannot be reached or used, belongs to another run, or is damaged."""

    exit_code = 2
    key = "mirror"


class ReplayError(SweepftError):
    """Recorded curves cannot be read or mapped to what a rule needs."""

    exit_code = 2
    key = "replay"


class _EarlierSweepError(SweepftError, ValueError):
    """An earlier sweep, or what was made from it, cannot be used.

    Args:
        entry: As given.
        rule: What must hold, or what is wrong with it.
        remedy: What the reader can do about it.
    """

    exit_code = 2
    _list = ""

    def __init__(self, entry: str, rule: str, remedy: str, key: str | None = None) -> None:
        self.entry, self.rule, self.remedy = entry, rule, remedy
        super().__init__(f"{self._list}: {entry[:200]} {rule}\n  {remedy}", key=key)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.entry, self.rule, self.remedy, self.key))


class PriorSweepsError(_EarlierSweepError):
    """An entry of ``prior_sweeps`` cannot be used: no calibration, no ledger, or of a sweep that was run otherwise."""

    key = "early_stop.prior_sweeps"
    _list = "prior_sweeps"


class LearnFromError(_EarlierSweepError):
    """An entry of ``search.learn_from`` cannot be used: no ledger, or no trials in this search space."""

    key = "search.learn_from"
    _list = "search.learn_from"


def is_storage_error(error: BaseException) -> bool:
    """Whether an error means that a disk is full, over quota, read-only or broken, or a network mount stale.

    By its ``errno``, or by its text.
    """
    if getattr(error, "errno", None) in _FULL + _BROKEN:
        return True
    return _names_errno(str(error), _FULL + _BROKEN)


def storage_remedy(text: str) -> str:
    """What to do about a storage error, by its text."""
    if _names_errno(text, _BROKEN):
        return "Check the disk or the network mount, then resume the run."
    return "Free space or make the folder writable, then resume the run."


_OUT_OF_MEMORY: Final = (
    "out of memory",  # CUDA and NCCL ("Cuda failure 2 'out of memory'"), by whatever class
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "Failed to CUDA calloc",  # NCCL's own
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory: you tried to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU's or the machine's memory is used up, by its class or by its text.

    Libraries beside torch allocate on their own: NCCL, cuBLAS, CUDA itself.
    """
    if "OutOfMemoryError" in type(error).__name__ or isinstance(error, MemoryError):
        return True
    return any(words.lower() in str(error).lower() for words in _OUT_OF_MEMORY)


_BROKEN_GPU: Final = ("CUDA error", "CUDA driver", "No CUDA GPUs", "NVML", "NCCL error", "no NVIDIA driver")
_NO_COMPILER: Final = ("Error building extension", "CUDA_HOME", "nvcc", "Ninja is required")


def environment_remedy(error: BaseException) -> str | None:
    """What to do about an error that the machine causes rather than a trial's settings; None for any other error."""
    text = str(error)
    if isinstance(error, ImportError):
        return "install the package in the Python environment of every node, then resume"
    if any(words in text for words in _NO_COMPILER) or "CUDA" in type(error).__name__:
        return "see the compiler's message in the log of the rank (logs/slot-*.log), mend it, then resume"
    if any(words in text for words in _BROKEN_GPU):
        return "check the GPU and its driver (nvidia-smi), then resume"
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return "make the file readable, or its folder writable, for this user on every node, then resume"
    return None


def _names_errno(text: str, numbers: Sequence[int]) -> bool:
    written = (f"(os error {number})" for number in numbers)  # by Rust
    copied = (f"[Errno {number}]" for number in numbers)  # by shutil, of the files of a folder
    return any(words in text for words in (*written, *copied))


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
