"""Python's search for cyclic garbage, put off while the rows of a long ledger are read.

One idea: rows hold no cycles, and the search goes over all of them again and again as they become more: with half a
million of them it takes as long as to read them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_off"]


@contextmanager
def collector_off() -> Iterator[None]:
    """While this holds, only what nothing refers to is freed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
