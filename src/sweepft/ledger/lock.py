"""One writer a run: a lock of the kernel, and a lease with a heartbeat for what the kernel cannot know.

`flock` on the file ``lock`` keeps the processes of one kernel apart, and those of other hosts where the file system
passes it on. A kernel frees it when its process ends, but a file server may keep the lock of a dead host, or know no
locks at all. The file ``lease`` beside it therefore names the owner, who renews it every few seconds:

- An owner that can be seen to be dead is replaced at once; one that lives is never replaced.
- An owner on another host is replaced when its lease has not changed for two minutes of watching, or at once
  if the user says that it is dead.
- An owner that was replaced while it slept notices it before it writes: `WriterLock.check`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sweepft.errors import LeaseLost, LedgerLocked
from sweepft.files import open_to_append
from sweepft.ledger.lease import SECONDS, Lease, read_lease, write_lease
from sweepft.ledger.owner import Owner

_UNSUPPORTED: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_CHECK_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class WriterLock:
    """The held lock of a run; `release` frees it, and the death of the process lets others take it.

    Args:
        path: The lock file; the lease lies beside it.
        take_over: Whether the user says that an owner on another host is dead.
        say: Takes a line when the lock is waited for, and when it is taken from another host.
    Raises:
        LedgerLocked: If another writer holds it, or may hold it.
        OSError: If the files cannot be written.

    Attributes:
        owner: This process.
    """

    def __init__(
        self, path: Path, *, take_over: bool = False, say: Callable[[str], None] | None = None
    ) -> None:
        self.path = path
        self._lease = path.with_name("lease")
        self.owner = Owner.me(path.parent)
        self._lost: str | None = None
        self._checked = (0.0, 0.0)
        self._fd = _Acquisition(path, self._lease, take_over, say or _log.warning).acquire(self.owner)
        self._ended = threading.Event()
        self._turn = threading.Lock()  # of those who write the lease: a heartbeat must not follow its removal
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def check(self) -> None:
        """Make sure that the run is still this process's. Cheap: looks at the lease once a second at most.

        Raises:
            LeaseLost: If another process has taken it over, as it may after this host slept or lost its network.
        """
        now = (time.monotonic(), time.time())  # the first may stand still while a machine is suspended
        if self._lost is None and all(
            0 <= n - c < _CHECK_SECONDS for n, c in zip(now, self._checked, strict=True)
        ):
            return
        self._look()
        self._checked = now
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def release(self, clear: bool = True) -> None:
        """Release the lock. The file stays: a deleted file could be locked twice.

        Args:
            clear: False in a forked child, which must not end its parent's lease.
        """
        if self._fd < 0:
            return
        self._ended.set()
        if clear:
            with self._turn, contextlib.suppress(OSError):  # a failing disk must not hide what led here
                self._look()
                if self._lost is None:
                    self._lease.unlink()
        os.close(self._fd)
        self._fd = -1

    def _beat(self) -> None:
        """Renew the lease until the lock is released or lost."""
        while not self._ended.wait(SECONDS.heartbeat):
            with self._turn:
                if self._ended.is_set():
                    return
                self._look()
                if self._lost is not None:
                    _log.error("lease lost: %s", self._lost)
                    return
                try:
                    write_lease(self._lease, self.owner)
                except OSError as error:
                    _log.warning("heartbeat not written: lease=%s error=%s", self._lease, error)

    def _look(self) -> None:
        """Note the loss of the lease. An unreadable file is no loss: it is looked at again."""
        if self._lost is not None:
            return
        with contextlib.suppress(OSError):
            found = read_lease(self._lease)
            if found is not None and found.owner.lease_id == self.owner.lease_id:
                return
            run = self.path.parent.parent
            by = str(found.owner) if found is not None else "another process, which has ended since"
            self._lost = (
                f"{run}: taken over by {by}, while this process gave no sign of life\n"
                f"  This process has stopped writing; see: sweepft status {run}"
            )


class _Acquisition:
    """Takes a lock, after watching a former owner whose end cannot be seen from here.

    Args:
        path, lease: The two files.
        take_over, say: See `WriterLock`.
    """

    def __init__(self, path: Path, lease: Path, take_over: bool, say: Callable[[str], None]) -> None:
        self._path = path
        self._lease = lease
        self._take_over = take_over
        self._say = say
        self._first: Lease | None = None
        self._deadline = 0.0

    def acquire(self, me: Owner) -> int:
        """The descriptor of the locked file; the lease is then ``me``'s."""
        fd = open_to_append(self._path)
        try:
            while True:
                kernel = _try_flock(fd)
                former = read_lease(self._lease)
                if self._may_take(fd, kernel, former):
                    break
                time.sleep(min(0.5, SECONDS.heartbeat / 5))
            if kernel is False:
                fd = self._replace(fd)
            self._claim(me, settle=kernel is None)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _may_take(self, fd: int, kernel: bool | None, former: Lease | None) -> bool:
        """Whether the lock is free now; False means to look again.

        Raises:
            LedgerLocked: If it is not, and will not be.
        """
        if former is None:
            if kernel is False:
                raise self._refused(None)
            return True
        owner = former.owner
        if kernel is False and (owner.same_kernel or _held_here(fd)):
            raise self._refused(owner)
        freed = kernel is True and owner.same_kernel and owner.device == os.fstat(fd).st_dev
        if freed or (owner.visible and not owner.alive):
            return True
        if owner.visible:
            raise self._refused(owner)
        if self._take_over:
            self._say(
                f"taking the run over from {owner}, by --take-over; if that process still runs, it stops at its "
                "next heartbeat, and what it trains until then is lost"
            )
            return True
        return self._watched(owner, former, kernel)

    def _watched(self, owner: Owner, lease: Lease, kernel: bool | None) -> bool:
        """Whether the lease has not changed for long enough."""
        if self._first is None:
            self._first = lease
            self._deadline = time.monotonic() + SECONDS.unchanged
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + SECONDS.unchanged))
            self._say(
                f"this run was written by {owner}, a host that cannot be seen from here: waiting until {until} for "
                "a sign of life, then taking it over (resume --take-over does not wait)"
            )
        if lease.mark != self._first.mark:
            raise self._refused(owner)
        if time.monotonic() < self._deadline:
            return False
        waited = f"{SECONDS.unchanged:.0f} s"
        if kernel is False:
            remedy = (
                f"Its heartbeat has stopped for {waited}, but the file server still holds its lock. If {owner.host} "
                f"is gone: sweepft resume {self._path.parent.parent} --take-over"
            )
            raise LedgerLocked(_message(self._path, owner, remedy))
        self._say(f"taking the run over from {owner}: no sign of life for {waited}")
        return True

    def _replace(self, fd: int) -> int:
        """Another lock file in place of the one that a dead host's file server keeps locked."""
        new = self._path.with_name(f".{self._path.name}-{os.urandom(8).hex()}")
        mine = open_to_append(new)
        try:
            _try_flock(mine)
            new.replace(self._path)
        except BaseException:
            os.close(mine)
            raise
        os.close(fd)
        return mine

    def _claim(self, me: Owner, settle: bool) -> None:
        """Write the lease. Without a kernel's lock several may claim at once: the last one to write has it."""
        write_lease(self._lease, me)
        if not settle:
            return
        time.sleep(min(1.0, SECONDS.heartbeat / 5))
        found = read_lease(self._lease)
        if found is None or found.owner.lease_id != me.lease_id:
            raise self._refused(found.owner if found is not None else None)

    def _refused(self, owner: Owner | None) -> LedgerLocked:
        return LedgerLocked(_message(self._path, owner, "Wait for it to end, or stop it first: sweepft stop"))


def _try_flock(fd: int) -> bool | None:
    """True: taken; False: another process holds it; None: the file system has no `flock`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second where the file system emulates it
        return False
    except OSError as e:
        if e.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _held_here(fd: int) -> bool:
    """Whether a process of this kernel holds the lock on this file."""
    about = os.fstat(fd)
    file = f" {os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino} "
    try:
        return file in Path("/proc/locks").read_text()
    except OSError:
        return False


def _message(path: Path, owner: Owner | None, remedy: str) -> str:
    who = str(owner) if owner is not None else "another process"
    return f"{path}: this run is being written by {who}\n  {remedy}"
