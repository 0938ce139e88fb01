"""SIGINT, SIGTERM and SIGHUP (a closed terminal) raise, so that child processes, locks and files go with a command.

A signal that was ignored when the command began, as by ``nohup``, stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REASONS: Final = {
    signal.SIGINT: "interrupted by user",
    signal.SIGTERM: "terminated by a signal",
    signal.SIGHUP: "the terminal was closed",
}


class Interrupted(KeyboardInterrupt):
    """A signal ends the command.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(REASONS[self.number])


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Send the signals that are not ignored to ``handler`` while the block runs; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


def ignore_signals() -> None:
    """Let the process end with its own exit code: its work is done."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Have the signals raise `Interrupted` while the block runs."""

    def on_signal(number: int, frame: Any) -> None:
        raise Interrupted(number)

    with handled_by(on_signal):
        yield
