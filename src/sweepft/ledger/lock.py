"""One writer a run: a lock file that names its owner and that the kernel releases when the owner dies.

`flock` decides. The text in the file (host, pid, start time of the process) tells people who the owner is, and decides
where the file system has no `flock`. A lock that names another host is never taken over, because this host cannot see
whether that process is alive.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sweepft.errors import LedgerLocked

_UNSUPPORTED: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True)
class Owner:
    """The process that writes a run.

    Attributes:
        host: Host name.
        pid: Process id on that host.
        started: Start of that process in clock ticks since the host booted (0 where unknown).
        since: Unix seconds at which the lock was taken.
    """

    host: str
    pid: int
    started: int
    since: float

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _start_ticks(os.getpid()) or 0, time.time())

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether a process of this pid and start time runs on this host."""
        ticks = _start_ticks(self.pid)
        return self.is_here and ticks is not None and self.started in (0, ticks)

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {when})"


class WriterLock:
    """The held lock of a run; `release` (or the death of the process) frees it."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LedgerLocked: If another writer holds it, or may hold it.
            OSError: If the file cannot be written.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            kernel = _try_flock(self._fd)
            owner = _read_owner(self._fd)
            if kernel is False:
                raise LedgerLocked(_message(path, owner, "Wait for it to end, or stop it first."))
            if owner is not None and not owner.is_here:
                remedy = f"If that process is gone, delete {path} and try again."
                raise LedgerLocked(_message(path, owner, remedy))
            if kernel is None and owner is not None and owner.alive:
                raise LedgerLocked(_message(path, owner, "Wait for it to end, or stop it first."))
            text = json.dumps(asdict(Owner.me())).encode() + b"\n"
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text, 0)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self, clear: bool = True) -> None:
        """Release the lock. The file stays, empty: a deleted file could be locked twice.

        Args:
            clear: False in a forked child, which must not erase its parent's name.
        """
        if self._fd >= 0:
            if clear:
                with contextlib.suppress(OSError):  # a failing disk must not hide the error that led here
                    os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def current_writer(ledger_dir: Path, *, quiet_seconds: float = 600.0) -> Owner | None:
    """The process that writes the ledger in this folder, or None. Takes no lock, so it never disturbs a writer.

    Args:
        ledger_dir: Folder of the ledger and its lock.
        quiet_seconds: This host cannot see whether a process of another host is alive. Such a writer counts as long as
            the ledger has grown within this time; infinity believes the lock.
    """
    try:
        fd = os.open(ledger_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        owner = _read_owner(fd)
    finally:
        os.close(fd)
    if owner is None or owner.is_here:
        return owner if owner is not None and owner.alive else None
    try:
        age = time.time() - (ledger_dir / "ledger.jsonl").stat().st_mtime
    except OSError:
        return None
    return owner if age < quiet_seconds else None


def _try_flock(fd: int) -> bool | None:
    """True: taken; False: another process holds it; None: the file system has no `flock`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _read_owner(fd: int) -> Owner | None:
    """The owner named in the file; None when it is empty or half-written."""
    try:
        found = json.loads(os.pread(fd, 4096, 0))
        return Owner(str(found["host"]), int(found["pid"]), int(found["started"]), float(found["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def _start_ticks(pid: int) -> int | None:
    """When a process of this host started, in ticks since boot; 0 where unknown; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *rest = stat.rpartition(")")[2].split()
        return None if state in "ZX" else int(rest[18])
    except (OSError, ValueError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def _message(path: Path, owner: Owner | None, remedy: str) -> str:
    who = str(owner) if owner is not None else "another process"
    return f"{path}: this run is being written by {who}\n  {remedy}"
