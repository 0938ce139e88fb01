"""The tracker process of a sweep: started with it, told when it is over, and never waited for in between.

One idea: the process knows that its driver is gone, whatever the reason, because its standard input ends.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from sweepft.recorder import Row
from sweepft.track import failures

__all__ = ["Tracking"]

_SILENT: Final = 5.0
"""Seconds after which it is said that trackers are waited for when the sweep is over."""
_LAST_WORDS: Final = 120.0
"""Seconds that they have from then on."""

_log = logging.getLogger(__name__)


class Tracking:
    """Has a sweep followed by trackers, as a listener of the recorder.

    Args:
        run_dir: The run folder; the ledger's first row is written. The process logs to ``logs/track.log``.
        console: Where it is said once that a tracker has failed.
        command: What to run, for tests.
    """

    def __init__(
        self, run_dir: Path, console: Console, command: tuple[str, ...] = ("-m", "sweepft.track")
    ) -> None:
        self._run_dir = run_dir
        self._console = console
        self._told: set[str] = set()
        self._pid = 0
        self.process: subprocess.Popen[bytes] | None = None
        try:
            (run_dir / "logs").mkdir(exist_ok=True)
            with (run_dir / "logs" / "track.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, *command, str(run_dir)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is the sweep's
                )
                self._pid = self.process.pid
        except OSError as error:
            self._tell("trackers", f"the process cannot be started: {error}")

    def on_row(self, row: Row) -> None:
        """Take one ledger row: see whether the process lives, and end it with the sweep. Never raises."""
        if row["kind"] == "finish":
            self._finish()
        elif row["kind"] in ("eval", "end"):
            self._look()

    def _look(self) -> None:
        for name, why in failures(self._run_dir, self._pid).items():
            self._tell(name, why)
        process = self.process
        if process is not None and process.poll() is not None:
            self.process = None
            _hang_up(process)
            self._tell("trackers", f"the process ended with code {process.returncode}")

    def _finish(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        _hang_up(process)
        try:
            code = process.wait(_SILENT)
        except subprocess.TimeoutExpired:
            self._console.print("trackers get the last rows; Ctrl-C leaves them", highlight=False)
            code = _wait_or_kill(process)
        self._look()
        if code != 0:
            self._tell("trackers", f"the process ended with code {code}")

    def _tell(self, name: str, why: str) -> None:
        if name in self._told:
            return
        self._told.add(name)
        _log.warning("tracking failed: tracker=%s error=%s", name, why)
        log = self._run_dir / "logs" / "track.log"
        self._console.print(
            f"warning: tracking by {name} ended, the sweep goes on: {why}\n"
            f"  see {log}; what is missing is sent by: sweepft track {self._run_dir}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _wait_or_kill(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_LAST_WORDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        return process.wait()
