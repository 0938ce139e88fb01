"""The append-only record of a sweep: one writer, checksummed rows that never change.

A row goes to the file in one write, and is cut off again if that write fails half-way. Rows that decide something
(see `rows.DURABLE`) are synced before `append` returns. So a crash can only leave a half-written last line, which
readers ignore and the next writer cuts off. `EventLog` also folds each row into the sweep's state: everything that
happens in a sweep passes there, in the order in which it happens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from sweepft.errors import LeaseLost, LedgerError, LedgerLocked, StorageError
from sweepft.files import inside, open_to_append, sync_folder
from sweepft.ledger.codec import as_read, decode_row, encode_row, plain
from sweepft.ledger.lock import WriterLock
from sweepft.ledger.owner import Owner
from sweepft.ledger.reader import LEDGER, has_trials, read_ledger
from sweepft.ledger.row_checks import row_problem
from sweepft.ledger.rows import DURABLE, FREE_TEXT_FIELDS, Row, complete_fields
from sweepft.ledger.state import SweepState
from sweepft.redact import redact_within

T = TypeVar("T")


class Ledger:
    """The writer of a run's ledger, from `create` or `open`. Close it, or use ``with``.

    It belongs to one process: a forked child is refused, and it cannot be pickled.
    """

    def __init__(
        self,
        path: Path,
        lock: WriterLock,
        fd: int,
        next_seq: int,
        size: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._lock = lock
        self._fd = fd
        self._seq = next_seq
        self._size = size  # bytes of whole rows: where a failed write is cut back to
        self._pid = os.getpid()
        self._broken: str | None = None
        self._clock = clock

    @classmethod
    def create(
        cls,
        run_dir: str | os.PathLike[str],
        clock: Callable[[], float] = time.time,
        *,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """Begin the ledger of a new run. The folders are made private to the user (0700).

        A ledger without trials, of a sweep that failed before its first one, is begun again.

        Args:
            run_dir: The run folder.
            clock: Unix seconds for the rows; a simulated sweep gives its own.
            say: See `WriterLock`.
        Raises:
            LedgerError: If the folder already holds a ledger with trials, or a damaged one.
            LedgerLocked: If another driver holds the lock.
            StorageError: If the folder cannot be written.
        """
        path = inside(run_dir, *LEDGER)
        lock = None
        try:
            _make_private(Path(run_dir))
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.parent.chmod(0o700)
            lock = WriterLock(path.parent / "lock", say=say)
            if has_trials(run_dir):
                raise LedgerError(
                    f"{path}: this folder already holds a run\n  Resume it, or give the new run another folder.",
                    key="ledger.exists",
                )
            fd = open_to_append(path, new=True)
            _sync_folders(path)
        except BaseException as e:
            if lock is not None:
                lock.release()
            if isinstance(e, OSError):
                raise _storage_error(path, "cannot begin the ledger", e) from e
            raise
        return cls(path, lock, fd, next_seq=0, size=0, clock=clock)

    @classmethod
    def open(cls, run_dir: str | os.PathLike[str]) -> Self:
        """As `reopen`, without the rows."""
        return cls.reopen(run_dir)[0]

    @classmethod
    def reopen(
        cls,
        run_dir: str | os.PathLike[str],
        *,
        take_over: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> tuple[Self, list[Row]]:
        """Continue a run's ledger after its last whole row; a half-written last line is cut off.

        Args:
            run_dir: The run folder.
            take_over, say: See `WriterLock`.
        Returns:
            The writer, and all rows so far.
        Raises:
            LedgerError, LedgerCorrupt, LedgerVersion: See `sweepft.ledger.reader.iter_ledger`.
            LedgerLocked: If another driver writes it.
            StorageError: If it cannot be written.
        """
        path = inside(run_dir, *LEDGER)
        if not path.is_file():
            raise LedgerError(
                f"{path}: there is no ledger\n  Give the folder of a run that has started.",
                key="ledger.missing",
            )
        try:
            lock = WriterLock(path.parent / "lock", take_over=take_over, say=say)
        except OSError as e:
            raise _storage_error(path, "cannot lock the ledger", e) from e
        fd = -1
        try:
            rows = read_ledger(run_dir)
            fd = open_to_append(path)
            size = _mend_tail(fd)
        except BaseException as e:
            lock.release()
            if fd >= 0:
                os.close(fd)
            if isinstance(e, OSError):
                raise _storage_error(path, "cannot open the ledger for writing", e) from e
            raise
        return cls(path, lock, fd, next_seq=len(rows), size=size), rows

    def append(self, kind: str, **fields: Any) -> Row:
        """Write one row. Secrets in its free texts are redacted.

        Args:
            kind: A key of `rows.KINDS`.
            fields: The fields of that kind; numpy values, NaN and inf are fine.
        Returns:
            The row exactly as `read_ledger` will give it.
        Raises:
            ValueError, TypeError: If the row is not of its kind or a value cannot be written.
            LeaseLost: If another driver has taken the run over.
            StorageError: If the disk is full, read-only or failing. After a full disk the ledger is still
                whole and `append` may be tried again.
        """
        self.check()
        if self._seq == 0 and kind != "sweep":
            raise ValueError(f"ledger row {kind!r}: the first row of a ledger is 'sweep'")
        body = {name: plain(value, name) for name, value in complete_fields(kind, fields).items()}
        body |= {name: redact_within(body[name]) for name in FREE_TEXT_FIELDS[kind]}
        row = {"seq": self._seq, "time": self._clock(), "kind": kind, **body}
        line = encode_row(row)
        read = as_read(row, line)
        broken = row_problem(read)
        if broken is not None:
            raise ValueError(f"ledger row {kind!r}: {broken[0]} {broken[1]}")
        self._write(line)
        self._seq += 1
        self._size += len(line)
        if kind in DURABLE:
            self.sync()
        return read

    @property
    def owner(self) -> Owner:
        """The process that writes it."""
        return self._lock.owner

    def check(self) -> None:
        """Make sure that rows can be written.

        Raises:
            LeaseLost: If another driver has taken the run over.
            StorageError: If the disk has failed before.
        """
        self._check_usable()
        self._lock.check()

    def sync(self) -> None:
        """Flush everything written so far to disk.

        Raises:
            StorageError: If the disk refuses. It is then unknown what is on disk, and no further row is accepted.
        """
        self._check_usable()
        try:
            os.fsync(self._fd)
        except OSError as e:
            self._break("rows may be lost: the disk failed to sync", e)

    def close(self) -> None:
        """Sync, close and release the lock. Closing twice is fine."""
        if self._fd < 0:
            return
        mine = os.getpid() == self._pid
        try:
            if self._broken is None and mine:
                self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1
            self._lock.release(clear=mine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Ledger is one process's writer and cannot be pickled; open it where the rows are written"
        )

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise StorageError(self._broken)
        if self._fd < 0:
            raise ValueError(f"{self.path}: the ledger is closed")
        if os.getpid() != self._pid:
            raise LedgerLocked(
                f"{self.path}: process {os.getpid()} is a child of its writer {self._pid}\n"
                "  Send rows to the driver process, the only writer."
            )

    def _write(self, line: bytes) -> None:
        if os.fstat(self._fd).st_size != self._size:
            raise LeaseLost(
                f"{self.path}: another process has written to it\n"
                "  This driver has stopped writing; see sweepft status, and resume the run if none is running."
            )
        done = 0
        try:
            while done < len(line):
                done += os.write(self._fd, line[done:])
        except BaseException as e:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError as second:
                self._break("a row is half-written and cannot be cut off", second)
            if isinstance(e, OSError):
                raise _storage_error(self.path, f"row {self._seq} could not be written", e) from e
            raise

    def _break(self, what: str, cause: OSError) -> NoReturn:
        error = _storage_error(self.path, what, cause)
        self._broken = str(error)
        raise error from cause


class EventLog:
    """Writes the rows of one sweep.

    Args:
        ledger: Open for writing.
        state: The state so far; empty for a new sweep.

    Attributes:
        failure: The error after which nothing can be written any more, or None. Tune turns exceptions of its
            callbacks into text, so the error is kept here. It is a `LeaseLost` where another driver has the run.
        listeners: Called with each row, after it is written and folded.
    """

    def __init__(self, ledger: Ledger, state: SweepState) -> None:
        self.ledger = ledger
        self.state = state
        state.writer = ledger.owner
        self.failure: StorageError | LeaseLost | None = None
        self.listeners: list[Callable[[Row], None]] = []

    def write(self, kind: str, **fields: Any) -> Row:
        """Append one row (see ``sweepft.ledger.rows``) and return it.

        Raises:
            StorageError, LeaseLost: If the ledger cannot be written, now or at an earlier call.
        """
        row = self._kept(lambda: self.ledger.append(kind, **fields))
        self.state.apply(row)
        for listener in self.listeners:
            listener(row)
        return row

    def check(self) -> None:
        """Make sure that rows can be written. Raises as `write` does."""
        self._kept(self.ledger.check)

    def _kept(self, act: Callable[[], T]) -> T:
        """Act, and keep the error after which nothing can be written."""
        if self.failure is not None:
            raise self.failure
        try:
            return act()
        except (StorageError, LeaseLost) as error:
            self.failure = error
            raise


def _mend_tail(fd: int) -> int:
    """Cut off a half-written last line, or add a missing newline. Returns the file's size.

    The rows were checked before: what follows the last newline is a whole row, or half of one.
    """
    size = os.fstat(fd).st_size
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        step = min(1 << 16, start)
        start -= step
        tail = os.pread(fd, step, start) + tail
    rest = tail.rpartition(b"\n")[2]
    if not rest:
        return size
    try:
        decode_row(rest)
    except ValueError:
        os.ftruncate(fd, size - len(rest))
        return size - len(rest)
    return size + os.write(fd, b"\n")


def _make_private(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _sync_folders(path: Path) -> None:
    """A new file survives a power cut only if its folders are synced too."""
    for folder in (path.parent, path.parent.parent):
        sync_folder(folder)


def _storage_error(path: Path, what: str, cause: OSError) -> StorageError:
    return StorageError(
        f"{path}: {what}: {cause.strerror or cause}\n"
        "  Free space or make the folder writable, then resume the run."
    )
