"""The mirror of a sweep's run folder: looked at before anything starts, kept by a process beside the driver.

One idea: a mirror that cannot be used is refused before the first slot; one that fails later is told of, tried again,
and harms nobody. pyarrow is loaded in processes of their own, here never.
"""
# MERGED A process of ours that follows a sweep from beside its driver, and ends with it.
# MERGED The tracker process of a sweep: started with it, told when it is over, and never waited for in between.

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from sweepft.errors import MirrorError
from sweepft.ledger import EventLog, Row
from sweepft.mirror.status import MirrorStatus, read_status
from sweepft.spec import Mirror
from sweepft.trackers import failures

_SILENT: Final = 5.0


"""Seconds after which it is said that the process is waited for when the sweep is over."""


class SidecarProcess:
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


_PATIENCE: Final = 120.0


"""Seconds in which a mirror must answer."""


_MODULE: Final = "sweepft.mirror"


_STARTS: Final = 3


"""How often the process is started again when it has died."""


_log = logging.getLogger(__name__)


def check_mirror(mirror: Mirror | None, run_dir: Path) -> None:
    """Refuse a mirror that cannot be written, or that holds another run.

    Raises:
        MirrorError: With the store's own words and a remedy.
    """
    if mirror is None:
        return
    command = [sys.executable, "-m", "sweepft.mirror", "check", str(run_dir), mirror.uri]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        rule, remedy = f"gives no answer in {_PATIENCE:.0f} s", "is it reachable from here?"
        raise MirrorError(f"{mirror.uri}: {rule}\n  {remedy}") from None
    if done.returncode != 0:
        raise MirrorError(done.stdout.strip() or done.stderr.strip()[-2000:])


@contextlib.contextmanager
def mirrored(mirror: Mirror | None, run_dir: Path, event_log: EventLog, console: Console) -> Iterator[None]:
    """While the block runs, keep the mirror; at its end, whatever the reason, bring it up to date."""
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
        """Take one ledger row: see how the mirror stands. Never raises."""
        if row["kind"] not in ("eval", "end"):
            return
        self._tell(self._note())
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
        words = f"the mirror {self._mirror.uri} gets the last files; Ctrl-C leaves it"
        code = follower.end(lambda: self._console.print(words, highlight=False, markup=False), None)
        note = read_status(self._run_dir)
        self._tell(note if note is not None and note.process == follower.pid else None)
        if code != 0:
            self._warn(f"not up to date; {self._by_hand}")

    @property
    def _by_hand(self) -> str:
        return f"what is missing is sent by: sweepft mirror {self._run_dir}"

    def _start(self) -> None:
        self._starts += 1
        if self._starts > _STARTS:
            self._warn(f"its process has died {_STARTS} times, see logs/mirror.log; {self._by_hand}")
            return
        mirror, log = self._mirror, self._run_dir / "logs" / "mirror.log"
        command = ["-m", _MODULE, "follow", str(self._run_dir), mirror.uri, str(mirror.seconds)]
        try:
            self._follower = SidecarProcess(command, log)
        except OSError as error:
            self._warn(f"its process cannot be started: {error}; {self._by_hand}")

    def _note(self) -> MirrorStatus | None:
        """What the process has noted; that of one before it counts for nothing."""
        note = read_status(self._run_dir)
        here = note is not None and self._follower is not None and note.process == self._follower.pid
        return note if here else None

    def _tell(self, note: MirrorStatus | None) -> None:
        """Say that the mirror is behind, and that it no longer is, once each."""
        if note is None or (note.failure is not None) == self._behind:
            return
        self._behind = note.failure is not None
        if note.failure is not None:
            self._warn(f"behind, and tried again: {note.failure}")
        else:
            _log.info("mirror up to date again: uri=%s", note.uri)
            self._console.print(f"the mirror is up to date again: {note.uri}", highlight=False, markup=False)

    def _warn(self, words: str) -> None:
        _log.warning("mirror: %s", words)
        text = f"warning: mirror: {words}"
        self._console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


_LAST_WORDS: Final = 120.0


"""Seconds that trackers have when the sweep is over."""


class Tracking:
    """Has a sweep followed by trackers, as a listener of the recorder.

    Args:
        run_dir: The run folder; the ledger's first row is written. The process logs to ``logs/track.log``.
        console: Where it is said once that a tracker has failed.
        command: What to run, for tests.
    """

    def __init__(
        self, run_dir: Path, console: Console, command: tuple[str, ...] = ("-m", "sweepft.trackers")
    ) -> None:
        self._run_dir = run_dir
        self._console = console
        self._told: set[str] = set()
        self._log = run_dir / "logs" / "track.log"
        self._pid = 0
        self.follower: SidecarProcess | None = None
        try:
            self.follower = SidecarProcess([*command, str(run_dir)], self._log)
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
