"""Turns Tune's events into ledger rows, and accounts for every second of slot time.

Tune calls the scheduler before its callbacks, so the rows of a result are written here before those of the decisions it
led to.
(Just over 400 lines: one class, with a method for each of Tune's events, all of which account for one slot's time.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sweepft.driver.control import DriverOnly
from sweepft.driver.fault_policy import FaultPolicy
from sweepft.driver.scheduler import SweepScheduler, write_end
from sweepft.early_stopping import PATIENCE
from sweepft.errors import StorageError, storage_remedy
from sweepft.ledger import EventLog, Row, without_residuals
from sweepft.search.ray_searcher import INTERRUPTED, Outcome, outcome_of
from sweepft.slot.checkpoints import mark_paused, remove_checkpoints, remove_exemption
from sweepft.slot.jobs import EvalJob, TrialJob, job_of
from sweepft.slot.room import Gpu
from sweepft.slot.state import NOTED, WENT_ON


class LedgerCallback(DriverOnly, tune.Callback):
    """Writes the rows of trials and evaluation jobs.

    Args:
        event_log: Takes the rows.
        scheduler: Its decisions are recorded.
        fault_policy: Has decided about lost slots before Tune calls ``on_trial_error``.
        outcomes: How trials end, noted here before Tune tells the searcher that they ended.
        on_left: Called with the name of each job that leaves its slot.
        gpus_per_slot: GPUs a slot holds, for the cost rows.
        begin: Unix seconds from which the slots' time is accounted for: the driver's first row.
        slots: Concurrent slots.
        checkpoints: The run's ``checkpoints/``, where paused trials are marked.
        elapsed: Seconds since ``begin``; None for this machine's clock.
    """

    def __init__(
        self,
        event_log: EventLog,
        *,
        scheduler: SweepScheduler,
        fault_policy: FaultPolicy,
        outcomes: dict[str, Outcome],
        on_left: Callable[[str], None],
        gpus_per_slot: float,
        begin: float,
        slots: int,
        checkpoints: Path,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        self._event_log = event_log
        self._scheduler = scheduler
        self._fault_policy = fault_policy
        self._outcomes = outcomes
        self._on_left = on_left
        self._gpus = gpus_per_slot
        self._time = TimeAccounting(0.0, slots)
        self._elapsed = elapsed or _elapsed_since(begin)
        self._checkpoints = checkpoints
        self._attempts: dict[str, int] = {}
        self._faults_written: dict[str, int] = {}
        self._decisions: dict[str, Row] = {}

    # ----- Tune's events ---------------------------------------------------------------------------------

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """A job gets its slot."""
        job = job_of(trial.config)
        if isinstance(job, TrialJob):
            for memory in (self._attempts, self._faults_written, self._decisions):
                memory.pop(job.trial_id, None)
            self._write_trial(job)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reports, or an item of an evaluation job is scored."""
        job = job_of(trial.config)
        if isinstance(job, EvalJob):
            self._write_score(job, result)
        else:
            self._write_report(job, result)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """A job has left its slot."""
        job, result = job_of(trial.config), trial.last_result or {}
        self._time.leave(job.name)
        self._on_left(job.name)
        if isinstance(job, EvalJob):
            return
        outcome = self._outcomes.pop(job.trial_id, INTERRUPTED)
        if outcome.status == "failed":
            self._fault_policy.health.withdraw(job.trial_id)
            self._write_node_faults()
        if outcome.status in ("paused", "interrupted") and self._is_paused(job):
            return  # a paused trial has not ended, also if it was about to resume
        self._write_end(job, outcome, result)
        self._end_on_full_storage(result)

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """A job's coordinator is gone. Faults of ranks come as results instead."""
        job, result = job_of(trial.config), trial.last_result or {}
        lost, slot = self._fault_policy.lost_slots.pop(job.name), result.get("slot")
        self._outcomes.pop(job.name, None)
        self._on_left(job.name)
        trial_id = None
        if isinstance(job, TrialJob):
            trial_id = job.trial_id
            self._write_trial(job)  # it may have lost its slot before it started
        seconds = self._time.lose(slot, self._elapsed()) if slot else 0.0
        self._event_log.write(
            "fault",
            trial_id=trial_id,
            slot=slot,
            rank=None,
            error=lost.error,
            message=lost.message,
            action=lost.action,
            lost_seconds=seconds,
            node=lost.node,
            gpu=lost.gpu,
        )
        self._write_node_faults()
        if slot:
            self._write_cost(trial_id, slot, "lost", seconds)
        if isinstance(job, EvalJob):
            self._faults_written.pop(job.name, None)
            return
        if lost.status == "failed" or (lost.status == "interrupted" and not self._is_paused(job)):
            self._write_end(job, Outcome(lost.status, reason=lost.message), result)
        if lost.status == "failed":
            remove_checkpoints(self._checkpoints / job.trial_id)

    def close(self) -> None:
        """Write how long each slot has been idle since its last job: the session is over."""
        for slot, seconds in self._time.close(self._elapsed()).items():
            self._write_cost(None, slot, "idle", seconds)

    # ----- rows of a trial -------------------------------------------------------------------------------

    def _write_trial(self, job: TrialJob) -> None:
        """The ``trial`` row, where there is none yet."""
        if job.trial_id in self._event_log.state.trials:
            return
        self._event_log.write(
            "trial",
            trial_id=job.trial_id,
            number=job.number,
            params=job.params,
            train_config=job.train_config.to_dict(),
            origin=job.origin,
            planned_steps=job.train_config.planned_steps,
            warmup_steps=job.train_config.warmup_steps,
            study_number=job.study_number,
            replicate_of=job.replicate_of,
            coordinates=dict(job.coordinates),
            objective_rungs=None if job.objective_rungs is None else list(job.objective_rungs),
        )

    def _write_report(self, job: TrialJob, result: dict[str, Any]) -> None:
        """Faults, a new attempt, steps, validation losses, decisions, costs: one result."""
        name = job.trial_id
        restarted = self._write_faults(name, result, trial_id=name)
        if "history" in result:
            gpus = [Gpu(*gpu) for gpu in result.get("gpus", ())]
            self._fault_policy.health.reported(result.get("node_ids", ()), gpus)
            self._write_node_faults()
            self._write_steps(name, result, self._attempt(name, result, restarted))
        for decision in self._scheduler.drain_decisions():
            row = self._event_log.write("decision", **decision.to_row())
            self._decisions[row["trial_id"]] = row
        if "patience" in result:
            self._write_patience(name, result)
        for where, error in self._scheduler.drain_errors().items():  # logged already, with their tracebacks
            self._event_log.write(
                "fault",
                trial_id=name,
                slot=result["slot"],
                rank=None,
                error=type(error).__name__,
                message=f"early stopping, {where}: {error}",
                action=WENT_ON,
            )
        # The cost rows come last: a result without them counts as not written when the sweep is resumed.
        self._write_costs(name, name, result)
        if result.get("done"):
            outcome = self._outcomes[name] = outcome_of(result, self._decisions.get(name))
            if outcome.status in ("paused", "interrupted"):  # its checkpoints are needed again
                mark_paused(self._checkpoints / name)

    def _attempt(self, name: str, result: dict[str, Any], restarted: bool) -> int:
        """The number of the result's attempt; a new one starts with the trial and after each restart."""
        attempt = self._attempts.get(name)
        if attempt is None or restarted:
            attempt = self._attempts[name] = len(self._event_log.state.trials[name].attempts) + 1
            self._event_log.write(
                "start", trial_id=name, attempt=attempt, slot=result["slot"], **result["started"]
            )
        return attempt

    def _write_steps(self, name: str, result: dict[str, Any], attempt: int) -> None:
        self._event_log.write(
            "steps",
            trial_id=name,
            attempt=attempt,
            history=result["history"],
            blocks=result["blocks"],
            data_order=result["data_order"],
            phase_seconds=result["phase_seconds"],
        )
        if "eval_sets" in result:
            final = result["samples_seen"] >= result["budget_samples"]
            with_residuals = final or result.get("best_is_new", False)
            self._event_log.write(
                "eval",
                trial_id=name,
                attempt=attempt,
                step=result["step"],
                samples_seen=result["samples_seen"],
                rung=result["rung"],
                final=final,
                objective=result.get("objective"),
                sets=result["eval_sets"] if with_residuals else without_residuals(result["eval_sets"]),
                seconds=result["eval_seconds"],
                task=_task(result, with_residuals),
                counts=result.get("best_is_new", True),
                tasks=_tasks(result),
            )

    def _write_patience(self, name: str, result: dict[str, Any]) -> None:
        """The decision of a slot to end a trial that did not become better."""
        self._event_log.write(
            "decision",
            trial_id=name,
            step=result["step"],
            samples_seen=result["samples_seen"],
            rung=result["rung"],
            action=PATIENCE,
            rule=PATIENCE,
            reason=result["patience"],
            evidence={"objective": result["best_objective"], "objective_step": result["best_step"]},
        )

    def _write_end(self, job: TrialJob, outcome: Outcome, result: dict[str, Any]) -> None:
        remove_exemption(self._checkpoints / job.trial_id)
        write_end(
            self._event_log,
            job.trial_id,
            outcome,
            attempt=self._attempts.get(job.trial_id, 1),
            step=result.get("step", 0),
            samples_seen=result.get("samples_seen", 0),
            tokens_seen=result.get("tokens_seen", 0),
        )

    def _is_paused(self, job: TrialJob) -> bool:
        return self._event_log.state.trials[job.trial_id].status == "paused"

    def _end_on_full_storage(self, result: dict[str, Any]) -> None:
        """End the sweep where a slot cannot write: the next trial could not either."""
        if "storage" in result:
            self._event_log.failure = StorageError(
                f"{self._checkpoints.parent}: {result['storage']}\n  {storage_remedy(result['storage'])}"
            )
            raise self._event_log.failure

    # ----- rows of an evaluation job, and of both --------------------------------------------------------

    def _write_score(self, job: EvalJob, result: dict[str, Any]) -> None:
        """One scored item. Its time is charged to the slot, not to a trial."""
        self._write_faults(job.name, result, trial_id=None)
        self._event_log.write("score", **result["scored"], slot=result["slot"])
        self._write_costs(job.name, None, result)

    def _write_faults(self, name: str, result: dict[str, Any], trial_id: str | None) -> bool:
        """The faults since the last result; whether any of them has restarted the trial."""
        faults = result["faults"][self._faults_written.get(name, 0) :]
        for fault in faults:
            self._event_log.write("fault", trial_id=trial_id, slot=result["slot"], rank=None, **fault)
        self._faults_written[name] = len(result["faults"])
        return any(fault["action"] not in NOTED for fault in faults)

    def _write_node_faults(self) -> None:
        """Nodes and GPUs that are kept out from now on, or used again."""
        for fault in self._fault_policy.health.news():
            self._event_log.write("fault", trial_id=None, slot=None, rank=None, lost_seconds=0.0, **fault)

    def _write_costs(self, name: str, trial_id: str | None, result: dict[str, Any]) -> None:
        """The result's own time by phase, and the time that the slot was idle before it."""
        slot, phases = result["slot"], result["phase_seconds"]
        for phase, seconds in phases.items():
            self._write_cost(trial_id, slot, phase, seconds)
        between = self._time.result(slot, name, self._elapsed(), phases)
        if between is not None:
            self._write_cost(None, slot, *between)

    def _write_cost(self, trial_id: str | None, slot: str, phase: str, seconds: float) -> None:
        self._event_log.write(
            "cost", trial_id=trial_id, slot=slot, phase=phase, seconds=seconds, gpus=self._gpus
        )


def _task(result: Mapping[str, Any], with_residuals: bool) -> dict[str, Any] | None:
    """What the objective's task has shown."""
    found: dict[str, Any] | None = result.get("objective_task")
    return found if found is None or with_residuals else {k: v for k, v in found.items() if k != "residuals"}


def _tasks(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What further tasks have shown, and that of the objective where it is bounded."""
    found = result.get("eval_tasks") or {}
    return {name: {k: v for k, v in one.items() if k != "cost"} for name, one in found.items()}


def _elapsed_since(begin: float) -> Callable[[], float]:
    """Seconds since a moment (Unix seconds), on a clock that never runs backwards."""
    zero = time.monotonic() - (time.time() - begin)
    return lambda: time.monotonic() - zero


@dataclass
class _Lane:
    """A lane that is accounted for up to ``since`` and works on ``trial``."""

    since: float
    trial: str | None = None


class TimeAccounting:
    """Time between the trials of each slot.

    Args:
        begin: Start of the sweep, in seconds of any clock.
        lanes: Concurrent slots.
    """

    def __init__(self, begin: float, lanes: int) -> None:
        self._begin = begin
        self._lanes = lanes
        self._held: dict[str, _Lane] = {}
        self._free: list[float] = []

    def result(
        self, slot: str, trial: str, now: float, phases: Mapping[str, float]
    ) -> tuple[str, float] | None:
        """Take a result. Returns the phase and the seconds before it that belong to no trial, or None.

        Args:
            slot: The slot; a new one takes a free lane, or that of the slot which has been silent the longest.
            trial: The trial or evaluation job.
            now: When the result came.
            phases: The trial's own seconds since its last result.
        """
        lane = self._held.get(slot)
        new = lane is None
        if lane is None:
            lane = self._held[slot] = _Lane(self._vacant())
        reported = sum(phases.values())
        first = lane.trial != trial
        seconds = max(0.0, now - lane.since - reported) if first else 0.0
        # Not `now`: a result may come late, and its delay is accounted for with a later one, once.
        lane.since += seconds + reported
        lane.trial = trial
        return ("startup" if new else "idle", seconds) if first else None

    def leave(self, trial: str) -> None:
        """A trial has left its slot; if it resumes, even on the same slot, the time until then is not its own."""
        for lane in self._held.values():
            if lane.trial == trial:
                lane.trial = None

    def lose(self, slot: str, now: float) -> float:
        """A slot is lost, and its lane free. Returns the seconds since its last result."""
        lane = self._held.pop(slot, None)
        if lane is None:  # its lane was given to another slot, with the time since then
            return 0.0
        self._free.append(now)
        return max(0.0, now - lane.since)

    def close(self, now: float) -> dict[str, float]:
        """The sweep is over. Returns the seconds of each slot that are not accounted for yet."""
        rest = {slot: max(0.0, now - lane.since) for slot, lane in self._held.items()}
        for lane in self._held.values():
            lane.since = now
        return rest

    def _vacant(self) -> float:
        """The time from which a lane is free for a new slot."""
        if not self._free and len(self._held) >= self._lanes:
            silent = min(self._held, key=lambda slot: self._held[slot].since)
            self._free.append(self._held.pop(silent).since)
        return self._free.pop(0) if self._free else self._begin
