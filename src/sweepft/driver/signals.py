"""What signals do while a sweep runs, from its first ledger row to its report.

The first signal ends trials at their next rung, the second at once, and the third raises. While the report is written,
the first is noted and the second raises.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from rich.console import Console

from sweepft.driver.control import SweepControl
from sweepft.interrupts import REASONS, Interrupted, handled_by


class SweepSignals:
    """Passes signals on to a running sweep.

    Args:
        control: Of the sweep.
        console: Takes a line for each signal.

    Attributes:
        received: Number of signals. Repeated SIGHUPs are one: the kernel and a shell each send it.
    """

    _current: ClassVar[SweepSignals | None] = None

    def __init__(self, control: SweepControl, console: Console) -> None:
        self._control = control
        self._console = console
        self._allowed = 2
        self._reporting = self._hung_up = self._skipping = False
        self._handling = contextlib.ExitStack()
        self.received = 0

    def __enter__(self) -> Self:
        self._handling.enter_context(handled_by(self._on_signal))
        SweepSignals._current = self
        return self

    def __exit__(self, *error: object) -> None:
        SweepSignals._current = None
        self._handling.close()

    def begin_report(self) -> None:
        """The trials are over. The next signal lets the report be written, the one after it raises."""
        self._reporting, self._allowed = True, self.received + 1
        self._handling.enter_context(
            handled_by(self._on_signal)
        )  # again: libraries of the session set their own

    @classmethod
    @contextlib.contextmanager
    def raising(cls) -> Iterator[None]:
        """Have every signal raise while the block waits for something that can be done later."""
        current = cls._current
        if current is not None:
            current._skipping = True
        try:
            yield
        finally:
            if current is not None:
                current._skipping = False

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGHUP and self._hung_up:
            return
        self._hung_up = self._hung_up or number == signal.SIGHUP
        self.received += not (self._skipping and number == signal.SIGINT)  # that skips the wait, nothing else
        if self._skipping or self.received > self._allowed:
            raise Interrupted(number)
        if self._reporting:
            text = "writing the report; again stops now"
        else:
            self._control.request_stop(REASONS[signal.Signals(number)])
            now = self._control.immediate
            text = "stopping now" if now else "stopping at the next rungs; Ctrl-C again stops now"
        self._console.print(text, style="yellow", highlight=False)
