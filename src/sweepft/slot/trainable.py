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
    EnvironmentFault,
    ExportMismatch,
    HostOutOfMemory,
    LigerMismatch,
    PackingMismatch,
    RankCannotMeasure,
    RankCannotWrite,
    RankEnvironment,
    RankFailed,
    RankHung,
    RankOutOfMemory,
    TrialError,
    storage_remedy,
)
from sweepft.slot.eval_run import EvalRun
from sweepft.slot.group import before_settings
from sweepft.slot.jobs import EvalJob, job_of, report_points
from sweepft.slot.state import RANKS_REBUILT, SlotConfig, SlotState
from sweepft.slot.trial_run import TrialRun
from sweepft.spec import TrainConfig

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
        """Advance the job by one result. A fault is mended here where it can be.

        Raises:
            EnvironmentFault: If the fault says nothing about the job. The slot ends; the driver decides what follows.
        """
        while True:
            try:
                return self._run.advance()
            except TrialError as error:
                starting = self._run.starting
                if not self._mend(error):
                    if starting or isinstance(error, RankCannotWrite):
                        self._check_environment(error)
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

    def _check_environment(self, error: TrialError) -> None:
        """Find out whether a job that cannot start or write could do so with other settings.

        Raises:
            EnvironmentFault: If it could not, or if that is unknown.
        """
        run, nodes = self._run, error.nodes or self._state.nodes
        if isinstance(error, RankCannotWrite):
            if isinstance(run, EvalRun):
                raise EnvironmentFault(f"{error}\n  {storage_remedy(str(error))}")
            return  # the trial's last result says so: what it has measured is kept
        if before_settings(error) or (isinstance(run, TrialRun) and run.repeating):
            raise EnvironmentFault(str(error), nodes=nodes, gpus=error.gpus)
        of_settings = RankOutOfMemory | PackingMismatch | LigerMismatch | ExportMismatch | RankCannotMeasure
        if isinstance(run, EvalRun) or isinstance(error, of_settings):
            return
        if run.job.proven is None and run.position > 0:
            return  # it has caught up here, so this slot can train
        if run.job.proven is None:
            certain = isinstance(error, RankEnvironment)
            raise EnvironmentFault(str(error), certain=certain, nodes=nodes, gpus=error.gpus)
        control = self._failure_of(run.job.proven)
        if control is not None:
            both = [node for node in nodes if node in control.nodes]
            gpus = [gpu for gpu in error.gpus if gpu in control.gpus]
            raise EnvironmentFault(
                str(error), nodes=both or nodes, control_failed=True, gpus=gpus or error.gpus
            )

    def _failure_of(self, train_config: TrainConfig) -> TrialError | None:
        """Train with other settings on new ranks of this slot, as far as a trial's first report; what failed, if
        anything.
        """
        engine = self._state.config.engine
        first = report_points(engine.budget_samples, engine.rungs, train_config.batch_size)[0]
        try:
            self._state.start(train_config)
            self._state.group.run(first.samples, self._state.config.patience, self._state.config.hang_seconds)
        except TrialError as error:
            _log.warning("another trial cannot start either: %s", error)
            self._state.close_ranks()
            return error
        return None

    def _remedy(self, error: TrialError) -> str | None:
        """What is done about a fault; None where nothing helps."""
        beside_gpus = isinstance(error, HostOutOfMemory) and self._state.config.shape.gpus > 0
        if isinstance(error, RankOutOfMemory) and not before_settings(error) and not beside_gpus:
            return self._run.save_memory()  # new ranks alone would run out of memory again
        if isinstance(
            error, PackingMismatch | LigerMismatch | ExportMismatch | RankCannotMeasure | RankCannotWrite
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
        return (
            type(error) in (RankFailed, RankEnvironment, RankOutOfMemory, HostOutOfMemory)
            and self._last == last
        )
