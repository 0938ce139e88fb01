"""How trials end: by the early-stopping scheduler, on request, on a pause, on a stop, or while no slot trains them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from sweepft.driver.control import KnownBounds, SweepControl
from sweepft.driver.fault_policy import FaultPolicy, read_slot_failure
from sweepft.early_stopping import value_so_far
from sweepft.early_stopping.from_ledger import BASELINE, final_problem
from sweepft.ledger import EventLog, Row, TrialState, is_baseline
from sweepft.schedulers import EarlyDynamicsScheduler
from sweepft.search import Proposer
from sweepft.search.ray_searcher import Outcome
from sweepft.slot.checkpoints import remove_checkpoints
from sweepft.slot.jobs import TrialJob, job_of


class SweepScheduler(EarlyDynamicsScheduler):
    """Judges the trials of the search, and ends trials as the sweep's control asks.

    A rung is judged even where the trial ends there for another reason, so that a resumed sweep has the decisions of an
    undisturbed one. Replicates and evaluation jobs are not judged.

    Args:
        control: Of the sweep.
        fault_policy: Decides about trials that lost their slot; without one they have failed.
        bounds: Those on validation losses, as far as they are known.
        settings: See `EarlyDynamicsScheduler`.
    """

    resumes_paused = True

    def __init__(
        self,
        *,
        control: SweepControl | None = None,
        fault_policy: FaultPolicy | None = None,
        bounds: KnownBounds | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._bounds = bounds
        self._control = control or SweepControl()
        self._fault_policy = fault_policy
        self._left: set[str] = set()  # Tune ids of trials that left their slot without having ended

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial joins."""
        job = job_of(trial.config)
        if isinstance(job, TrialJob) and job.is_search_trial:
            super().on_trial_add(tune_controller, trial)
            if is_baseline(job.number, job.origin):
                self.early_stopper.pin(job.name, BASELINE)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge, then end what is to end."""
        job = job_of(trial.config)
        if job.is_search_trial:
            self._take_bounds()
            judged = super().on_trial_result(tune_controller, trial, value_so_far(result))
            if judged == TrialScheduler.STOP:
                return str(TrialScheduler.STOP)
            reason = self._control.take_trial_stop(job.name)
            if reason is not None:
                self.early_stopper.stop(job.name, reason)
                return str(TrialScheduler.STOP)
        if self._control.ends_at(result):
            self._left.add(trial.trial_id)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial was withdrawn."""
        if job_of(trial.config).is_search_trial:
            super().on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's slot is lost; the trial itself runs again elsewhere unless the fault policy fails it."""
        job, failed = job_of(trial.config), True
        if self._fault_policy is not None:
            lost = self._fault_policy.slot_lost(job.name, read_slot_failure(trial))
            failed = lost.status == "failed"
        if failed and job.is_search_trial:
            super().on_trial_error(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended, or left its slot. One that failed says so in its last result."""
        if not job_of(trial.config).is_search_trial or trial.trial_id in self._left:
            return
        if result and result.get("failed"):
            super().on_trial_error(tune_controller, trial)
            return
        self._take_bounds()
        if result and "objective" in result and result["samples_seen"] >= result["budget_samples"]:
            problem = final_problem(result["objective"])
            result = result if problem is None else {**result, "diverged": problem}
        super().on_trial_complete(tune_controller, trial, value_so_far(result or {}))

    def _take_bounds(self) -> None:
        if self._bounds is not None:
            self.early_stopper.set_bounds(self._bounds.limits, self._bounds.base, self._bounds.noise)

    def _name(self, trial: Any) -> str:
        return job_of(trial.config).name

    def _hyperparameters(self, trial: Any) -> dict[str, Any]:
        """The same as `sweepft.early_stopping.from_ledger` reads from the ledger."""
        job = job_of(trial.config)
        assert isinstance(job, TrialJob)
        return {**job.train_config.to_dict(), **job.params}


class SweepStopper(tune.Stopper):
    """Has Tune end all trials when the sweep stops at once.

    Args:
        control: Of the sweep.
    """

    def __init__(self, control: SweepControl) -> None:
        self._control = control

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never: single trials are ended by the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Whether to end all trials now."""
        return self._control.immediate


def write_end(
    event_log: EventLog,
    trial_id: str,
    outcome: Outcome,
    *,
    attempt: int,
    step: int,
    samples_seen: int,
    tokens_seen: int,
) -> Row:
    """Write the ``end`` row of a trial."""
    return event_log.write(
        "end",
        trial_id=trial_id,
        attempt=attempt,
        status=outcome.status,
        reason=outcome.reason,
        objective=outcome.objective,
        step=step,
        samples_seen=samples_seen,
        tokens_seen=tokens_seen,
    )


def stop_idle_trial(
    event_log: EventLog,
    trial: TrialState,
    reason: str,
    *,
    checkpoints: Path,
    scheduler: SweepScheduler | None,
    proposer: Proposer | None,
) -> None:
    """End a trial that no slot trains as stopped: in ledger, scheduler and study, and on disk.

    Args:
        event_log: Of the sweep.
        trial: Paused, or interrupted in a paused sweep.
        reason: A sentence.
        checkpoints: The run's ``checkpoints/``.
        scheduler, proposer: Of the running session; None between sessions.
    """
    write_end(
        event_log,
        trial.trial_id,
        Outcome("stopped", reason=reason),
        attempt=len(trial.attempts),
        step=trial.step,
        samples_seen=trial.samples_seen,
        tokens_seen=trial.tokens_seen,
    )
    if scheduler is not None and proposer is not None:
        scheduler.give_up(trial.trial_id)
        proposer.tell(trial.trial_id, "stopped", reason=reason)
    remove_checkpoints(checkpoints / trial.trial_id)


def stop_paused_trials(
    event_log: EventLog,
    *,
    scheduler: SweepScheduler,
    proposer: Proposer,
    checkpoints: Path,
    from_scratch: bool,
    limit: str | None,
) -> None:
    """End the trials that are still paused when the search is over, with the reason why they were not resumed.

    Args:
        event_log: Of the sweep.
        scheduler: Has paused them.
        proposer: Of the sweep.
        checkpoints: The run's ``checkpoints/``.
        from_scratch: Whether a resumed trial would have trained again from its start.
        limit: The limit that was reached, or why the search needs no more trials, as a sentence; None without any.
    """
    for paused in scheduler.paused_trials(from_scratch=from_scratch):
        trial = event_log.state.trials[paused.trial_id]
        why = limit if limit is not None and paused.worth else paused.reason
        stop_idle_trial(
            event_log,
            trial,
            f"{trial.reason}; it was paused and not resumed: {why}",
            checkpoints=checkpoints,
            scheduler=scheduler,
            proposer=proposer,
        )
