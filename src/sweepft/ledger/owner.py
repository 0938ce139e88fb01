"""The process that writes a run: who it is, on which machine, and whether it can be seen to live.

Two hosts may bear one name (pods of a StatefulSet, containers), and one kernel may run under several. A machine is
therefore the boot of a kernel where the system tells it, and its host name elsewhere; a process id counts within its
namespace only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sweepft.ledger.rows import is_time


@dataclass(frozen=True)
class Owner:
    """The process that writes a run.

    Attributes:
        host: Host name.
        pid: Process id on that host.
        started: Start of that process in clock ticks since the host booted (0 where unknown).
        since: Unix seconds, by that host's clock, at which it took the run.
        lease_id: Differs from that of every other owner.
        boot: The boot of that host's kernel; empty where unknown.
        namespace: Its namespace of process ids; 0 where unknown.
        device: The file system of the run folder as that kernel numbers it.
    """

    host: str
    pid: int
    started: int
    since: float
    lease_id: str = ""
    boot: str = ""
    namespace: int = 0
    device: int = 0

    @classmethod
    def me(cls, folder: Path) -> Self:
        """This process, as the owner of a run from now on.

        Args:
            folder: The folder of the lock.
        """
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_start_ticks(os.getpid()) or 0,
            since=time.time(),
            lease_id=uuid.uuid4().hex,
            boot=_boot(),
            namespace=_namespace(),
            device=folder.stat().st_dev,
        )

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """From the fields of a lease. Raises KeyError, TypeError or ValueError if they are not those of an owner."""
        pid, since = int(found["pid"]), float(found["since"])
        if not 0 < pid < 2**31 or not is_time(since):
            raise ValueError("pid or time out of range")
        return cls(
            host=str(found["host"]),
            pid=pid,
            started=int(found["started"]),
            since=since,
            lease_id=str(found["lease_id"]),
            boot=str(found["boot"]),
            namespace=int(found["namespace"]),
            device=int(found["device"]),
        )

    @property
    def same_kernel(self) -> bool:
        """Whether it is, or was, a process of the kernel that runs this one."""
        boot = _boot()
        return self.boot == boot if self.boot and boot else self.host == socket.gethostname()

    @property
    def visible(self) -> bool:
        """Whether this process can see it: same kernel, same namespace of process ids."""
        return self.same_kernel and self.namespace == _namespace()

    @property
    def alive(self) -> bool:
        """Whether it is visible, and a process of its pid and start time runs."""
        ticks = _start_ticks(self.pid) if self.visible else None
        return ticks is not None and (not self.started or not ticks or self.started == ticks)

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {when})"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _start_ticks(pid: int) -> int | None:
    """When a visible process started, in ticks since boot; 0 where unknown; None if it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *rest = stat.rpartition(")")[2].split()
        return None if state in "ZX" else int(rest[18])
    try:
        os.kill(pid, 0)  # another user's processes may be hidden in /proc
    except (ProcessLookupError, OverflowError, ValueError):
        return None
    except PermissionError:
        return 0
    return 0
