"""A process of ours that follows a sweep from beside its driver, and ends with it.

One idea: the process knows that its driver is gone, whatever the reason, because its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["Follower"]

_SILENT: Final = 5.0
"""Seconds after which it is said that the process is waited for when the sweep is over."""


class Follower:
    """Starts the process.

    Args:
        command: What Python is to run.
        log: File that takes what the process prints; its folder is made.
    Raises:
        OSError: If it cannot be started.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the sweep's
            )
        self.pid = self.process.pid

    def gone(self) -> int | None:
        """The code with which it has ended by itself, or None while it runs."""
        code = self.process.poll()
        if code is not None:
            self._hang_up()
        return code

    def end(self, waiting: Callable[[], None], most: float | None) -> int:
        """Tell it that the sweep is over, and wait for its last work; Ctrl-C, or too long a wait, kills it.

        Args:
            waiting: Called when it takes more than a moment.
            most: Seconds that it has from then on; None for as long as it takes.
        Returns:
            Its exit code.
        """
        self._hang_up()
        try:
            return self.process.wait(_SILENT)
        except subprocess.TimeoutExpired:
            waiting()
        try:
            return self.process.wait(most)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()
            return self.process.wait()

    def _hang_up(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
