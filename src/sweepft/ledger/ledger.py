"""The append-only record of a sweep: one writer, checksummed rows, nothing ever changed.

A row goes to the file in one write, and is cut off again if that write fails half-way; rows that decide
something (see `rows.DURABLE`) are synced before `append` returns. A crash can therefore only leave a
half-written last line, which readers ignore and the next writer cuts off. Anything else that is wrong is
refused by name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from sweepft.errors import LedgerCorrupt, LedgerError, LedgerLocked, LedgerVersion, StorageError
from sweepft.ledger.codec import as_read, decode_row, encode_row, gc_paused, plain
from sweepft.ledger.lock import WriterLock
from sweepft.ledger.rows import DURABLE, SCHEMA_VERSION, Row, complete_fields

_RESTORE: Final = "  Restore the file from a copy."


def ledger_path(run_dir: str | os.PathLike[str]) -> Path:
    """Where the ledger of a run lies."""
    return Path(run_dir) / "ledger" / "ledger.jsonl"


class Ledger:
    """The writer of a run's ledger. Make one with `create` or `open`; close it, or use ``with``.

    Not for other processes: a forked child is refused, and it cannot be pickled.
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
    def create(cls, run_dir: str | os.PathLike[str], clock: Callable[[], float] = time.time) -> Self:
        """Begin the ledger of a new run; folders made here are private to the user (0700).

        Args:
            run_dir: The run folder.
            clock: Unix seconds for the rows; another one than the machine's in simulated sweeps.
        Raises:
            LedgerError: If the folder already holds a ledger.
            LedgerLocked: If another driver is about to write there.
            StorageError: If the folder cannot be written.
        """
        path = ledger_path(run_dir)
        lock = None
        try:
            _make_private(Path(run_dir))
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.parent.chmod(0o700)
            lock = WriterLock(path.parent / "lock")
            if path.exists() and path.stat().st_size > 0:
                raise LedgerError(
                    f"{path}: this folder already holds a run\n  Resume it, or give a new run another folder."
                )
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        """As `reopen`, for who does not need the rows."""
        return cls.reopen(run_dir)[0]

    @classmethod
    def reopen(cls, run_dir: str | os.PathLike[str]) -> tuple[Self, list[Row]]:
        """Go on writing a run's ledger after its last whole row; a half-written last line is cut off.

        Returns:
            The writer, and all rows so far.
        Raises:
            LedgerError, LedgerCorrupt, LedgerVersion: If there is none, or it cannot be trusted.
            LedgerLocked: If another driver writes it.
            StorageError: If it cannot be written.
        """
        path = ledger_path(run_dir)
        if not path.is_file():
            raise LedgerError(
                f"{path}: there is no ledger\n  Give the folder of a run that sweepft has begun."
            )
        try:
            lock = WriterLock(path.parent / "lock")
        except OSError as e:
            raise _storage_error(path, "cannot lock the ledger", e) from e
        fd = -1
        try:
            rows = read_ledger(run_dir)
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
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
        """Write one row.

        Args:
            kind: A key of `rows.KINDS`.
            fields: The fields of that kind; numpy values, NaN and inf are fine.
        Returns:
            The row exactly as `read_ledger` will give it.
        Raises:
            ValueError, TypeError: If the row is not of its kind or a value cannot be written.
            StorageError: If the disk is full, read-only or failing. After a full disk the ledger is still
                whole and `append` may be tried again.
        """
        self._check_usable()
        if self._seq == 0 and kind != "sweep":
            raise ValueError(f"ledger row {kind!r}: the first row of a ledger is 'sweep'")
        body = {name: plain(value, name) for name, value in complete_fields(kind, fields).items()}
        row = {"seq": self._seq, "time": self._clock(), "kind": kind, **body}
        line = encode_row(row)
        self._write(line)
        self._seq += 1
        self._size += len(line)
        if kind in DURABLE:
            self.sync()
        return as_read(row, line)

    def sync(self) -> None:
        """Have everything written so far on disk.

        Raises:
            StorageError: If the disk refuses. What was written is then unknown: no row is taken after that.
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
                "  Hand rows to the driver process; only it writes."
            )

    def _write(self, line: bytes) -> None:
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


def iter_ledger(run_dir: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows of a run's ledger in order, each checked; also while a driver writes it.

    Raises:
        LedgerError: If there is no ledger.
        LedgerCorrupt: At the first damaged, missing or doubled row; the message names it.
        LedgerVersion: If it was written by an unknown schema version.
    """
    path = ledger_path(run_dir)
    try:
        source = path.open("rb")
    except OSError as e:
        why = e.strerror or str(e)
        raise LedgerError(
            f"{path}: cannot read the ledger: {why}\n  Give the folder of a run that sweepft has begun."
        ) from e
    with source:
        for seq, line in enumerate(source):
            if not line.endswith(b"\n"):
                row = _last_row(line, path, seq)
                if row is None:
                    return
            else:
                row = checked_row(line[:-1], path, seq)
            check_place(row, path, seq)
            yield row


def read_ledger(run_dir: str | os.PathLike[str]) -> list[Row]:
    """All rows of a run's ledger; see `iter_ledger`."""
    with gc_paused():
        return list(iter_ledger(run_dir))


def checked_row(line: bytes, path: Path, seq: int) -> Row:
    """The row of a line without its newline; refused by name where it is damaged."""
    try:
        return decode_row(line)
    except ValueError as e:
        raise LedgerCorrupt(
            f"{path}:{seq + 1}: row {seq} is damaged: {e}\n"
            "  Restore the file from a copy, or cut it before this row: the rows before it are sound."
        ) from e


def _last_row(line: bytes, path: Path, seq: int) -> Row | None:
    """The row of a last line without newline: whole but for it, or None when it is half-written."""
    try:
        return decode_row(line)
    except ValueError:
        pass
    try:
        decode_row(line[:-1])
    except ValueError:
        return None
    raise LedgerCorrupt(f"{path}:{seq + 1}: row {seq} is damaged: its newline has changed\n{_RESTORE}")


def check_place(row: Row, path: Path, seq: int) -> None:
    """Refuse a row that is not the one that belongs here."""
    where = f"{path}:{seq + 1}"
    found = row.get("schema_version")
    if row.get("kind") == "sweep" and found != SCHEMA_VERSION:
        raise LedgerVersion(
            f"{where}: row {seq}: ledger schema {found!r}, only {SCHEMA_VERSION} is known\n"
            f"  Read it with the sweepft that wrote it ({row.get('sweepft_version', 'version unknown')})."
        )
    if row.get("seq") != seq:
        raise LedgerCorrupt(
            f"{where}: row {seq} is missing or doubled: found seq {row.get('seq')!r}\n{_RESTORE}"
        )
    if seq == 0 and row.get("kind") != "sweep":
        raise LedgerCorrupt(f"{where}: row 0 is {row.get('kind')!r}, not the sweep's header\n{_RESTORE}")


def _mend_tail(fd: int) -> int:
    """Cut off a half-written last line, or add a newline that alone is missing. Returns the file's size.

    The rows have been checked before: what follows the last newline is whole (but for it) or half-written.
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
    """A new file is there after a power cut only when its folders are synced too."""
    for folder in (path.parent, path.parent.parent):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _storage_error(path: Path, what: str, cause: OSError) -> StorageError:
    return StorageError(
        f"{path}: {what}: {cause.strerror or cause}\n"
        "  Free space or make the folder writable, then resume the run."
    )
