"""The report while the sweep runs: written again when a trial has ended, and now and then in between.

One idea: the page may take a fiftieth of the driver's time and no more, so the pause after a page grows with what the
page cost. A page that cannot be written is logged; the sweep goes on.
"""
# MERGED What else follows from a ledger row while a sweep runs: giving up where nothing works, and whose weights stay.

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sweepft.driver.control import SweepControl
from sweepft.errors import PackingMismatch
from sweepft.ledger import Row, SweepState
from sweepft.report import write_report
from sweepft.slot.weight_retention import KeepPolicy

_GIVE_UP_AFTER = 3


def stop_when_nothing_works(control: SweepControl, view: SweepState) -> Callable[[Row], None]:
    """End a sweep whose first trials all fail, or whose model is found not to pack: the next ones would fail too."""
    ended = [t.status for t in view.trials.values() if t.end is not None and t.status != "interrupted"]
    failed, worked = ended.count("failed"), len(ended) > ended.count("failed")

    def on_row(row: Row) -> None:
        nonlocal failed, worked
        if row["kind"] == "fault" and row["error"] == PackingMismatch.__name__:
            control.give_up(row["message"])
        if row["kind"] != "end" or row["status"] == "interrupted":
            return
        failed, worked = failed + (row["status"] == "failed"), worked or row["status"] != "failed"
        if failed >= _GIVE_UP_AFTER and not worked:
            control.give_up(f"the first {failed} trials all failed: {row['reason']}")

    return on_row


def keep_weights(keep: KeepPolicy, view: SweepState) -> Callable[[Row], None]:
    """Remove the weights of trials that have been overtaken."""
    ended = (t for t in view.trials.values() if t.replicate_of is None)
    kept = {t.trial_id: t.objective for t in ended if t.objective is not None}

    def on_row(row: Row) -> None:
        nonlocal kept
        if row["kind"] != "end" or row["status"] != "completed":
            return
        if view.trials[row["trial_id"]].replicate_of is None:
            kept = keep.settle({**kept, row["trial_id"]: row["objective"]})

    return on_row


_AFTER_AN_END: Final = 20.0


"""Seconds between pages at least."""


_USUAL: Final = 60.0


"""Seconds between pages while no trial ends."""


_SHARE: Final = 0.02


"""Of the driver's time, at most."""


_log = logging.getLogger(__name__)


class LiveReport:
    """Keeps the report files of a running sweep up to date, as a listener of the recorder.

    Args:
        run_dir: The run folder.
        view: The fold that the recorder keeps up to date.
        write: Makes the files.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        run_dir: Path,
        view: SweepState,
        write: Callable[..., Any] = write_report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._view = view
        self._write = write
        self._clock = clock
        self._last = -math.inf
        self._cost = 0.0
        self._ended = False

    def on_row(self, row: Row) -> None:
        """Take one ledger row; write the report where it is due. Never raises what the report raises."""
        self._ended = self._ended or row["kind"] == "end"
        pause = max(_AFTER_AN_END if self._ended else _USUAL, self._cost / _SHARE)
        begin = self._clock()
        if begin - self._last < pause or row["kind"] == "finish":  # the final report follows at once
            return
        try:
            self._write(self._run_dir, live=True, state=self._view)
        except Exception as error:
            _log.warning("report not written: run=%s error=%r", self._run_dir, error)
        self._last = self._clock()
        self._cost = self._last - begin
        self._ended = False
