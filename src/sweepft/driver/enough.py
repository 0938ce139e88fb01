"""Ends the search when a further trial is not expected to gain enough (``search.enough``).

The check is made after each completed trial, and its result is a row of the ledger: a resumed sweep reads there that
the search has ended, and makes the checks that a crash prevented.
"""

from __future__ import annotations

from sweepft.driver.control import DriverOnly, SweepControl
from sweepft.ledger import EventLog, Row
from sweepft.search.enough import candidates, expected_gain
from sweepft.spec import Enough, SweepSpec


class EnoughCheck(DriverOnly):
    """Checks after each completed trial whether the search goes on.

    Args:
        spec: Of the sweep.
        asked: Its ``search.enough``.
        event_log: Of the sweep; takes an ``enough`` row for each check.
        control: Of the sweep.
    """

    def __init__(self, spec: SweepSpec, asked: Enough, event_log: EventLog, control: SweepControl) -> None:
        self._spec = spec
        self._asked = asked
        self._event_log = event_log
        self._control = control

    def take_up(self) -> None:
        """Before the first trial of this driver: what earlier ones have found."""
        found = self._event_log.state.found_enough
        if found is not None:
            self._end(found)
        else:
            self._check()

    def on_row(self, row: Row) -> None:
        """Take a ledger row: a trial has ended, or the base model's losses for the bounds are known."""
        if row["kind"] == "end" or (row["kind"] == "score" and row["trial_id"] is None):
            self._check()

    def _check(self) -> None:
        state, asked = self._event_log.state, self._asked
        trials = candidates(state)
        checked = next((row for row in reversed(state.enough) if row["gain"] == asked.gain), None)
        known = checked is not None and checked["completed"] == len(trials)
        if known or self._control.closed() is not None or len(trials) < asked.min_trials:
            return
        if state.bounds.pending or self._waits_for_baseline():
            return
        left = self._left()
        if left == 0:
            return
        expected = expected_gain(self._spec, trials)
        enough = expected is not None and expected < asked.gain
        row = self._event_log.write(
            "enough", completed=len(trials), expected=expected, gain=asked.gain, enough=enough, left=left
        )
        if enough:
            self._end(row)

    def _waits_for_baseline(self) -> bool:
        first = self._event_log.state.baseline
        open_ = first is None or first.end is None or first.status == "interrupted"
        return bool(self._spec.search.first_trials) and open_

    def _left(self) -> int | None:
        """Trials that are still to be proposed; None where neither the spec nor the space has a number."""
        trials = self._event_log.state.search_trials
        asked, size = self._event_log.state.asked_trials, self._spec.space_size
        left = [] if asked is None else [asked - sum(trial.origin != "clone" for trial in trials)]
        left += [] if size is None else [size - len(trials)]
        return max(0, min(left)) if left else None

    def _end(self, row: Row) -> None:
        objective = self._event_log.state.objective
        unit = "nats" if objective.task is None else f"of {objective.name}"
        expected = f"{row['expected']:.2g} {unit}"
        self._control.enough = (
            f"search.enough: a further trial is expected to gain {expected}, less than {row['gain']:g}"
        )
