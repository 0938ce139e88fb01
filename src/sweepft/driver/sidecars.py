"""Processes beside the driver that follow its sweep: the mirror of the run folder, and the trackers.

A mirror that cannot be used is refused before the sweep starts. A process that fails later is reported and, for the
mirror, started again; the sweep does not depend on either. pyarrow and the trackers' libraries are loaded in these
processes only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from sweepft.children import run_module
from sweepft.driver.signals import SweepSignals
from sweepft.errors import MirrorError
from sweepft.files import open_to_append
from sweepft.ledger import EventLog, Row
from sweepft.mirror.status import MirrorStatus, read_status
from sweepft.spec import Mirror
from sweepft.trackers import failures

_MIRROR: Final = "sweepft.mirror"
_SILENT: Final = 5.0
"""Seconds of waiting for a process at the end of a sweep before a message says so."""


class SidecarProcess:
    """A child process that follows the sweep, and ends when its standard input is closed.

    Args:
        command: Arguments of the Python interpreter.
        log: File that takes what the process prints; its folder is created.
    Raises:
        OSError: If it cannot be started.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(exist_ok=True)
        with os.fdopen(open_to_append(log), "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the sweep's
            )
        self.pid = self.process.pid

    def gone(self) -> int | None:
        """The exit code if it has ended by itself, None while it runs."""
        code = self.process.poll()
        if code is not None:
            self._hang_up()
        return code

    def end(self, waiting: Callable[[], None], most: float | None) -> int:
        """Tell it that the sweep is over, and wait for its last work. Ctrl-C, or too long a wait, kills it.

        Args:
            waiting: Called when it takes more than a moment.
            most: Seconds to wait from then on; None without limit.
        Returns:
            Its exit code.
        """
        self._hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_SILENT)
        waiting()
        try:
            with SweepSignals.raising():
                return self.process.wait(most)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()
            return self.process.wait()

    def _hang_up(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()


_PATIENCE: Final = 120.0
"""Seconds in which a mirror must answer."""

_STARTS: Final = 3
"""How often the mirror's process is started."""

_log = logging.getLogger(__name__)


def check_mirror(mirror: Mirror | None, run_dir: Path) -> None:
    """Refuse a mirror that cannot be written, or that holds another run.

    Raises:
        MirrorError: With the store's own message and a remedy.
    """
    if mirror is None:
        return
    try:
        done = run_module(_MIRROR, "check", str(run_dir), mirror.uri, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        rule, remedy = f"no response within {_PATIENCE:.0f} s", "check network and credentials"
        raise MirrorError(f"{mirror.uri}: {rule}\n  {remedy}", key="mirror.unreachable") from None
    if done.returncode != 0:
        raise MirrorError(done.output.strip() or done.errors.strip()[-2000:])


@contextlib.contextmanager
def mirrored(mirror: Mirror | None, run_dir: Path, event_log: EventLog, console: Console) -> Iterator[None]:
    """Keep the mirror up to date while the block runs, and complete it at the end, whatever the reason of the end."""
    if mirror is None:
        yield
        return
    mirroring = _Mirroring(mirror, run_dir, console)
    event_log.listeners.append(mirroring.on_row)
    try:
        yield
    finally:
        mirroring.close()


class _Mirroring:
    def __init__(self, mirror: Mirror, run_dir: Path, console: Console) -> None:
        self._mirror = mirror
        self._run_dir = run_dir
        self._console = console
        self._behind = False
        self._starts = 0
        self._follower: SidecarProcess | None = None
        self._start()

    def on_row(self, row: Row) -> None:
        """Take one ledger row: check the mirror's status. Never raises."""
        if row["kind"] not in ("eval", "end"):
            return
        self._report(self._note())
        code = self._follower.gone() if self._follower is not None else None
        if code is not None:
            _log.warning("mirror process ended: code=%d", code)
            self._follower = None
            self._start()

    def close(self) -> None:
        """Wait for the last files."""
        follower, self._follower = self._follower, None
        if follower is None:
            return
        message = f"copying the last files to the mirror {self._mirror.uri}; Ctrl-C skips them"
        code = follower.end(lambda: self._console.print(message, highlight=False, markup=False), None)
        note = read_status(self._run_dir)
        self._report(note if note is not None and note.process == follower.pid else None)
        if code != 0:
            self._warn(f"not up to date; {self._by_hand}")

    @property
    def _by_hand(self) -> str:
        return f"to copy what is missing: sweepft mirror {self._run_dir}"

    def _start(self) -> None:
        self._starts += 1
        if self._starts > _STARTS:
            self._warn(f"its process has died {_STARTS} times, see logs/mirror.log; {self._by_hand}")
            return
        mirror, log = self._mirror, self._run_dir / "logs" / "mirror.log"
        command = ["-m", _MIRROR, "follow", str(self._run_dir), mirror.uri, str(mirror.seconds)]
        try:
            self._follower = SidecarProcess(command, log)
        except OSError as error:
            self._warn(f"its process cannot be started: {error}; {self._by_hand}")

    def _note(self) -> MirrorStatus | None:
        """The status that the running process has written; None for that of an earlier one."""
        note = read_status(self._run_dir)
        here = note is not None and self._follower is not None and note.process == self._follower.pid
        return note if here else None

    def _report(self, note: MirrorStatus | None) -> None:
        """Report once that the mirror is behind, and once that it no longer is."""
        if note is None or (note.failure is not None) == self._behind:
            return
        self._behind = note.failure is not None
        if note.failure is not None:
            self._warn(f"behind; retrying: {note.failure}")
        else:
            _log.info("mirror up to date again: uri=%s", note.uri)
            self._console.print(f"the mirror is up to date again: {note.uri}", highlight=False, markup=False)

    def _warn(self, words: str) -> None:
        _log.warning("mirror: %s", words)
        text = f"warning: mirror: {words}"
        self._console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


_LAST_ROWS_SECONDS: Final = 120.0
"""Time for trackers to send the last rows when the sweep is over."""


class Tracking:
    """Runs the process that sends a sweep to its trackers, as a listener of the event log.

    Args:
        run_dir: The run folder; the ledger's first row is written. The process logs to ``logs/track.log``.
        console: Takes one message for each tracker that fails.
        command: What to run, for tests.
    """

    def __init__(
        self, run_dir: Path, console: Console, command: tuple[str, ...] = ("-m", "sweepft.trackers")
    ) -> None:
        self._run_dir = run_dir
        self._console = console
        self._reported: set[str] = set()
        self._log = run_dir / "logs" / "track.log"
        self._pid = 0
        self.follower: SidecarProcess | None = None
        try:
            self.follower = SidecarProcess([*command, str(run_dir)], self._log)
            self._pid = self.follower.pid
        except OSError as error:
            self._report("trackers", f"the process cannot be started: {error}")

    def on_row(self, row: Row) -> None:
        """Take one ledger row: check the process, and end it with the sweep. Never raises."""
        if row["kind"] == "finish":
            self._finish()
        elif row["kind"] in ("eval", "end"):
            self._look()

    def _look(self) -> None:
        for name, why in failures(self._run_dir, self._pid).items():
            self._report(name, why)
        code = self.follower.gone() if self.follower is not None else None
        if code is not None:
            self.follower = None
            self._report("trackers", f"the process ended with code {code}")

    def _finish(self) -> None:
        follower, self.follower = self.follower, None
        if follower is None:
            return
        message = "sending the last rows to trackers; Ctrl-C skips them"
        code = follower.end(lambda: self._console.print(message, highlight=False), _LAST_ROWS_SECONDS)
        self._look()
        if code != 0:
            self._report("trackers", f"the process ended with code {code}")

    def _report(self, name: str, why: str) -> None:
        if name in self._reported:
            return
        self._reported.add(name)
        _log.warning("tracking failed: tracker=%s error=%s", name, why)
        self._console.print(
            f"warning: tracking by {name} ended; the sweep continues: {why}\n"
            f"  see {self._log}; to send what is missing: sweepft track {self._run_dir}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
