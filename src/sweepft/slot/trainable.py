"""A slot: the coordinator of one group of ranks, as a class trainable of Ray Tune.

It holds no torch and a fraction of a CPU. Tune gives it job after job (``reuse_actors=True``); its ranks live on
between jobs, and one engine serves them all.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from ray import tune

from sweepft.errors import (
    ExportMismatch,
    PackingMismatch,
    RankCannotWrite,
    RankFailed,
    RankHung,
    RankOutOfMemory,
    TrialError,
)
from sweepft.slot.eval_run import EvalRun
from sweepft.slot.jobs import EvalJob, job_of
from sweepft.slot.state import RANKS_REBUILT, SlotConfig, SlotState
from sweepft.slot.trial_run import TrialRun

_log = logging.getLogger(__name__)


class Slot(tune.Trainable):
    """One slot. Its Tune config carries a job (see ``sweepft.slot.jobs``)."""

    def setup(self, config: dict[str, Any], slot_config: SlotConfig) -> None:
        """Take the first job. Ranks start with the first step, so that a failure there fails the trial, not the
        slot.
        """
        self._state = SlotState(slot_config)
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job; the ranks live on."""
        self._run.leave()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Advance the job by one result. A fault is mended here where it can be."""
        while True:
            try:
                return self._run.advance()
            except TrialError as error:
                if not self._mend(error):
                    return self._run.failure(error)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trials are checkpointed by their ranks, and the ledger holds the rest."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a resumed trial starts from the base weights or from its ranks' checkpoint."""

    def cleanup(self) -> None:
        """End the ranks."""
        self._state.close_ranks()

    def _take(self, config: dict[str, Any]) -> None:
        job = job_of(config)
        self._state.clock.restart()
        self._run: TrialRun | EvalRun
        if isinstance(job, EvalJob):
            self._run = EvalRun(self._state, job)
        else:
            self._run = TrialRun(self._state, job)
        self._errors = ErrorMemory()

    def _mend(self, error: TrialError) -> bool:
        """End the ranks and note the fault; whether the job is tried again with new ones."""
        run = self._run
        self._state.close_ranks()
        run.reset()
        action = self._remedy(error)
        fault = {
            "error": type(error).__name__,
            "message": str(error),
            "action": action or "given up",
            "lost_seconds": self._state.clock.lose(),
        }
        run.faults.append(fault)
        _log.warning("fault: trial=%s action=%r %s", run.name, fault["action"], error)
        return action is not None

    def _remedy(self, error: TrialError) -> str | None:
        """What is done about a fault; None where nothing helps."""
        if isinstance(error, RankOutOfMemory):  # new ranks alone would run out of memory again
            return self._run.save_memory()
        if isinstance(
            error, PackingMismatch | ExportMismatch | RankCannotWrite
        ):  # new ranks would raise the same
            return None
        if isinstance(error, RankFailed | RankHung) and not self._errors.repeats(error, self._run.position):
            self._run.restarts += 1
            return RANKS_REBUILT if self._run.restarts <= self._state.config.max_faults else None
        return None


class ErrorMemory:
    """Tells an error of the trial itself from one of its ranks: it comes back at the same place."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def repeats(self, error: TrialError, position: int) -> bool:
        """Whether the last error was the same one, at the same report point. Remembers this one.

        The rank's number does not count: where all ranks raise, any of them may be seen first.
        """
        last, self._last = self._last, (re.sub(r"\brank \d+", "a rank", str(error)), position)
        return type(error) is RankFailed and self._last == last
