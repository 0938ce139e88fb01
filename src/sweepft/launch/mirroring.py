"""The mirror of a sweep's run folder: looked at before anything starts, kept by a process beside the driver.

One idea: a mirror that cannot be used is refused before the first slot; one that fails later is told of, tried again,
and harms nobody. pyarrow is loaded in processes of their own, here never.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console

from sweepft.errors import MirrorError
from sweepft.launch.follower import Follower
from sweepft.mirror.note import Note, read_note
from sweepft.recorder import Row
from sweepft.spec import Mirror
from sweepft.tuner.recorder import Recorder

__all__ = ["check_mirror", "mirrored"]

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
def mirrored(mirror: Mirror | None, run_dir: Path, recorder: Recorder, console: Console) -> Iterator[None]:
    """While the block runs, keep the mirror; at its end, whatever the reason, bring it up to date."""
    if mirror is None:
        yield
        return
    mirroring = _Mirroring(mirror, run_dir, console)
    recorder.listeners.append(mirroring.on_row)
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
        self._follower: Follower | None = None
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
        note = read_note(self._run_dir)
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
            self._follower = Follower(command, log)
        except OSError as error:
            self._warn(f"its process cannot be started: {error}; {self._by_hand}")

    def _note(self) -> Note | None:
        """What the process has noted; that of one before it counts for nothing."""
        note = read_note(self._run_dir)
        here = note is not None and self._follower is not None and note.process == self._follower.pid
        return note if here else None

    def _tell(self, note: Note | None) -> None:
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
