"""What follows from a ledger row while a sweep runs: giving up, removing weights, the live report."""

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

_GIVE_UP_AFTER: Final = 3
"""Failed trials, where no trial has worked."""

_AFTER_AN_END: Final = 20.0
"""Shortest time between two reports, in seconds, when a trial has ended since."""

_USUAL: Final = 60.0
"""The same when no trial has ended."""

_SHARE: Final = 0.02
"""Largest share of the driver's time for reports: the more one costs, the longer the next one waits."""

_log = logging.getLogger(__name__)


def stop_when_nothing_works(control: SweepControl, view: SweepState) -> Callable[[Row], None]:
    """Give up a sweep when its first trials all fail, or its model cannot be packed: the next trials would fail too."""
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
    """Remove the weights of trials that are no longer among the best."""
    ended = (t for t in view.trials.values() if t.replicate_of is None)
    kept = {t.trial_id: t.objective for t in ended if t.objective is not None}

    def on_row(row: Row) -> None:
        nonlocal kept
        if row["kind"] != "end" or row["status"] != "completed":
            return
        if view.trials[row["trial_id"]].replicate_of is None:
            kept = keep.settle({**kept, row["trial_id"]: row["objective"]})

    return on_row


class LiveReport:
    """Keeps the report files of a running sweep up to date, as a listener of the event log.

    A report that cannot be written is logged; the sweep continues.

    Args:
        run_dir: The run folder.
        view: The sweep's state.
        write: Writes the files.
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
        """Take one ledger row; write the report if it is due. Errors of the report are logged."""
        self._ended = self._ended or row["kind"] == "end"
        pause = max(_AFTER_AN_END if self._ended else _USUAL, self._cost / _SHARE)
        begin = self._clock()
        if begin - self._last < pause or row["kind"] == "finish":  # the final report follows
            return
        try:
            self._write(self._run_dir, live=True, state=self._view)
        except Exception as error:
            _log.warning("report not written: run=%s error=%r", self._run_dir, error)
        self._last = self._clock()
        self._cost = self._last - begin
        self._ended = False
