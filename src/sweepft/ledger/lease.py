"""The lease of a run: a small file in which its writer shows every few seconds that it lives.

Another host cannot see the writer's process, and the two clocks may differ. So it watches: a lease that changes has a
living owner, and one that stays as it is for two minutes has none. The file is replaced as a whole.
"""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sweepft.bounded_json import read_json
from sweepft.files import atomic_write, open_to_read
from sweepft.ledger.owner import Owner
from sweepft.ledger.rows import is_time


@dataclass
class LeaseSeconds:
    """Times of leases.

    Attributes:
        heartbeat: Between two heartbeats of a writer.
        unchanged: So long must a lease stay unchanged before another host takes the run over.
    """

    heartbeat: float = 5.0
    unchanged: float = 120.0


SECONDS: Final = LeaseSeconds()

_FRESH: Final = 20.0
_LATE_BEATS: Final = 2.5
_OLD: Final = 86400.0


@dataclass(frozen=True)
class Lease:
    """A lease as read.

    Attributes:
        owner: Who holds it.
        time: Unix seconds of the last heartbeat, by the owner's clock.
        mark: Differs after each heartbeat.
    """

    owner: Owner
    time: float
    mark: tuple[bytes, int]


def read_lease(path: Path) -> Lease | None:
    """The lease in a file; None if there is none, or what is there is no lease.

    Raises:
        OSError: If it is unknown whether there is one: the file system does not answer.
    """
    try:
        file = open_to_read(path)  # opening asks a network file system for the newest state
    except FileNotFoundError:
        return None
    with file:
        text = os.pread(file.fileno(), 4096, 0)
        changed = os.fstat(file.fileno()).st_mtime_ns
    try:
        found = read_json(text, finite=True)
        time_of_beat = float(found["time"])
        return Lease(Owner.from_dict(found), time_of_beat, (text, changed)) if is_time(time_of_beat) else None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def write_lease(path: Path, owner: Owner) -> None:
    """Write a heartbeat.

    Raises:
        OSError: If the file cannot be written.
    """
    text = json.dumps(asdict(owner) | {"time": time.time()}) + "\n"
    try:
        atomic_write(path, text, sync=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.exists():
            raise
        os.utime(path, follow_symlinks=False)  # a full disk must not look like a dead writer


def current_writer(folder: Path) -> Owner | None:
    """The living process that writes in this folder, or None. Takes no lock, so it never disturbs a writer.

    The process of a host that cannot be seen from here lives if its lease is fresh. With an old one (or clocks that
    differ) this waits for its next heartbeat, for some seconds.

    Args:
        folder: The folder of the lease, as ``ledger``.
    """
    watch = WriterWatch(folder)
    owner = watch.writer()
    while owner is None and watch.in_doubt:
        time.sleep(min(0.2, SECONDS.heartbeat / 10))
        owner = watch.writer()
    return owner


class WriterWatch:
    """Follows whether a run has a living writer.

    Args:
        folder: The folder of the lease.

    Attributes:
        in_doubt: Whether a None of `writer` is no answer yet: its next heartbeat may still come.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease"
        self._mark: tuple[bytes, int] | None = None
        self._changed: float | None = None  # monotonic seconds of the last change that was seen
        self._begun: float | None = None
        self.in_doubt = False

    def writer(self) -> Owner | None:
        """The living writer as far as can be known now, or None."""
        self.in_doubt = False
        try:
            lease = read_lease(self._path)
        except OSError:
            return None
        if lease is None:
            return None
        if lease.owner.visible:
            return lease.owner if lease.owner.alive else None
        if lease.mark != self._mark:
            self._changed = None if self._mark is None else time.monotonic()
            self._mark = lease.mark
        now, age = time.monotonic(), time.time() - lease.time
        self._begun = now if self._begun is None else self._begun
        last = age if self._changed is None else now - self._changed
        fresh = -SECONDS.heartbeat < last < _FRESH
        watched = now - self._begun >= _LATE_BEATS * SECONDS.heartbeat
        self.in_doubt = not fresh and not watched and age < _OLD
        return lease.owner if fresh else None
