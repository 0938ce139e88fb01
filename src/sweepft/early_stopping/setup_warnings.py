"""Warns where a scheduler cannot do what it is there for: keys that no result has, a budget that does not fit.

Such a scheduler stops nothing and raises nothing. Each warning is logged once in a sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sweepft.early_stopping.early_stopper import DEFAULT_MIN_STEPS, EarlyStopper
from sweepft.early_stopping.result_reader import ResultReader
from sweepft.early_stopping.trial import TrialRecord

_log = logging.getLogger(__name__)
_FAR_BELOW, _FAR_ABOVE = 0.5, 1.5  # of the budget


class SetupWarnings:
    """Looks at the results of one sweep.

    Args:
        reader: Reads them.
        early_stopper: Judges the trials.
        chosen: Result keys that were named in the scheduler's arguments, by argument.

    Attributes:
        messages: What has been logged, by what it is about.
    """

    def __init__(self, reader: ResultReader, early_stopper: EarlyStopper, chosen: Mapping[str, str]) -> None:
        self._reader, self._early_stopper, self._chosen = reader, early_stopper, chosen
        self.messages: dict[str, str] = {}

    def after_result(self, record: TrialRecord) -> None:
        """A trial has reported."""
        budget, progress = self._early_stopper.budget, record.last_progress
        if record.reached and self._reader.metric not in self._reader.seen:
            self._tell_no_objective()
        if progress > _FAR_ABOVE * budget:
            self.tell(
                "budget_small",
                f"trial {record.trial_id} is at {self._reader.time_key}={progress:g}, far above the budget of"
                f" {budget:g}: trials are judged too early; set budget to what a full trial reaches",
            )

    def after_end(self, record: TrialRecord) -> None:
        """A trial has ended by itself."""
        reader, stopper = self._reader, self._early_stopper
        if reader.time_key not in reader.seen:
            self.tell(
                "time_attr",
                f"no result so far has a number {reader.time_key!r} (time_attr): no trial is judged; {self._has()}",
            )
            return
        if reader.metric not in reader.seen:
            self._tell_no_objective()
        for argument, key in self._chosen.items():
            if key not in reader.seen:
                self.tell(argument, f"no result so far has a number {key!r} ({argument}); {self._has()}")
        end = f"trial {record.trial_id} ended at {reader.time_key}={record.last_progress:g}"
        if not record.reached:
            self.tell(
                "budget_large",
                f"{end}, before its first rung: it was never judged; budget is {stopper.budget:g} and must be what a"
                f" full trial reaches in {reader.time_key}",
            )
        elif not record.snapshots:
            least = DEFAULT_MIN_STEPS if stopper.min_steps is None else stopper.min_steps
            self.tell(
                "min_steps",
                f"{end} and was never judged: at its rungs it had fewer than {least} steps (min_steps) or was in its"
                f" warmup of {record.warmup_steps} steps, or before grace_period={stopper.min_progress:g}",
            )
        elif record.last_progress < _FAR_BELOW * stopper.budget:
            self.tell(
                "budget_large",
                f"{end}, far below the budget of {stopper.budget:g}: trials are judged too late",
            )

    def tell(self, about: str, message: str) -> None:
        """Log a message, the first time that it is about this."""
        if about not in self.messages:
            self.messages[about] = message
            _log.warning("%s", message)

    def _tell_no_objective(self) -> None:
        reader = self._reader
        self.tell("metric", f"no result so far has a number {reader.metric!r} (metric); {self._has()}")

    def _has(self) -> str:
        keys = ", ".join(self._reader.others)
        return f"results have: {keys}" if keys else "results have no numbers of their own"
