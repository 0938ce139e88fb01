"""One process at a time: a lock of the kernel's, which goes with its process, so that a killed one holds nobody up."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """No other process, on any machine that sees the file, is in here with the same file.

    Args:
        path: Of a file that is made for it and stays.
    Yields:
        Whether that is sure: False on a file system without locks, where nobody is kept out.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
