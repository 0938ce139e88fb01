"""The tracker process of a sweep: started with it, told when it is over, and never waited for in between."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from rich.console import Console

from sweepft.launch.follower import Follower
from sweepft.recorder import Row
from sweepft.track import failures

__all__ = ["Tracking"]

_LAST_WORDS: Final = 120.0
"""Seconds that trackers have when the sweep is over."""

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
        self._log = run_dir / "logs" / "track.log"
        self._pid = 0
        self.follower: Follower | None = None
        try:
            self.follower = Follower([*command, str(run_dir)], self._log)
            self._pid = self.follower.pid
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
        code = self.follower.gone() if self.follower is not None else None
        if code is not None:
            self.follower = None
            self._tell("trackers", f"the process ended with code {code}")

    def _finish(self) -> None:
        follower, self.follower = self.follower, None
        if follower is None:
            return
        words = "trackers get the last rows; Ctrl-C leaves them"
        code = follower.end(lambda: self._console.print(words, highlight=False), _LAST_WORDS)
        self._look()
        if code != 0:
            self._tell("trackers", f"the process ended with code {code}")

    def _tell(self, name: str, why: str) -> None:
        if name in self._told:
            return
        self._told.add(name)
        _log.warning("tracking failed: tracker=%s error=%s", name, why)
        self._console.print(
            f"warning: tracking by {name} ended, the sweep goes on: {why}\n"
            f"  see {self._log}; what is missing is sent by: sweepft track {self._run_dir}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
