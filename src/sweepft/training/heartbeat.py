"""A rank's sign of life, in memory shared with the slot's coordinator on the same node. Loads no torch."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FORMAT: Final = struct.Struct("=QQd")


@dataclass(frozen=True)
class Beat:
    """How far a rank has come.

    Attributes:
        count: Signs of life so far: one for each forward and backward pass, and one for each optimizer step.
        steps: Optimizer steps since the trial started in this process.
        slowest: Longest time between two signs of life in that time, in seconds.
    """

    count: int = 0
    steps: int = 0
    slowest: float = 0.0


class Heartbeat:
    """Written by a rank.

    Args:
        file: Where the coordinator reads it; None for a rank that nobody watches.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._memory: mmap.mmap | bytearray = bytearray(_FORMAT.size)
        if file is not None:
            with file.open("r+b") as f:
                self._memory = mmap.mmap(f.fileno(), _FORMAT.size)
        self._count = self._steps = 0
        self._slowest, self._last = 0.0, time.monotonic()

    def start_trial(self) -> None:
        """What was measured before says nothing about the next trial's steps."""
        self._steps, self._slowest = 0, 0.0
        self.resume()

    def resume(self) -> None:
        """Training goes on after something else: the time in between does not count."""
        self._last = time.monotonic()
        self._write()

    def beat(self, step: bool = False) -> None:
        """Give a sign of life; ``step`` at the end of an optimizer step."""
        now = time.monotonic()
        self._slowest, self._last = max(self._slowest, now - self._last), now
        self._count, self._steps = self._count + 1, self._steps + step
        self._write()

    def _write(self) -> None:
        _FORMAT.pack_into(self._memory, 0, self._count, self._steps, self._slowest)


def new_file() -> Path:
    """An empty file for a heartbeat, in memory where the machine has such a place."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    descriptor, name = tempfile.mkstemp(prefix="sweepft-beat-", dir=folder)
    os.write(descriptor, bytes(_FORMAT.size))
    os.close(descriptor)
    return Path(name)


class HeartbeatReader:
    """Reads a rank's heartbeat, and removes its name from the file system.

    Args:
        file: As the rank has named it; one that cannot be read here shows no sign of life.
    """

    def __init__(self, file: str | None) -> None:
        self._memory: mmap.mmap | None = None
        with contextlib.suppress(OSError, ValueError):
            if file is not None:
                with Path(file).open("rb") as f:
                    self._memory = mmap.mmap(f.fileno(), _FORMAT.size, access=mmap.ACCESS_READ)
                Path(file).unlink()

    def read(self) -> Beat:
        """The last sign of life."""
        return Beat() if self._memory is None else Beat(*_FORMAT.unpack_from(self._memory))
