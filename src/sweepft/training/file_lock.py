"""An exclusive file lock of the kernel, released when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sweepft.files import open_to_append


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file, on all machines that see it.

    Args:
        path: Lock file; created where it is missing, and left behind.
    Yields:
        Whether the lock is held: False on a file system without locks, where other processes are not kept out.
    """
    with os.fdopen(open_to_append(path), "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
