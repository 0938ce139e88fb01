"""Limits of time and memory for a chat template: it is a program of somebody else, and may not end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from sweepft.errors import DataError

SECONDS: Final = 10.0
"""CPU time of one rendering; a usual one takes milliseconds."""

MEMORY: Final = 2 << 30
"""Bytes that a rendering may allocate."""

CHARACTERS: Final = 64 << 20
"""Of a rendered conversation."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class OutOfHand(DataError):
    """A template breaks a limit: other rows would fare no better."""


class TooLong(Exception):
    """A rendering has taken all of its time."""


_BITS: Final = 1 << 16


def bound_numbers() -> None:
    """Have Jinja's sandbox, which transformers renders with, refuse products and powers of thousands of digits.

    No signal interrupts the computation of one number.
    """
    from jinja2.sandbox import SandboxedEnvironment

    SandboxedEnvironment.intercepted_binops = frozenset(("*", "**"))
    SandboxedEnvironment.default_binop_table |= {"*": _times, "**": _power}


def _times(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and a.bit_length() + b.bit_length() > _BITS:
        raise OverflowError("a number has too many digits")
    return a * b


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and a.bit_length() * max(b, 0) > _BITS:
        raise OverflowError("a number has too many digits")
    return a**b


@contextlib.contextmanager
def render_limits() -> Iterator[None]:
    """Limit what the block may take: raises `TooLong`, or MemoryError.

    Time can be limited in the main thread only, where signals arrive, and memory on Linux only.
    """
    with _memory(), _time():
        yield


@contextlib.contextmanager
def _time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, 0.1)  # again, where the first one was swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = _data_bytes() + MEMORY
    if any(limit != resource.RLIM_INFINITY and limit <= most for limit in (soft, hard)):
        yield
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA now."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[5]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 1 << 62
