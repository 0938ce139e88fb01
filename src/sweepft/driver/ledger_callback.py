"""Writes what happens to the ledger, in the order it happens, and keeps the folded view up to date."""
# MERGED How a trial ended, decided in one place from its last result and its last verdict.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial

from sweepft.driver.fault_policy import LostSlot
from sweepft.driver.time_accounting import TimeAccounting
from sweepft.errors import StorageError
from sweepft.ledger import EventLog, Row, without_residuals
from sweepft.schedulers import EarlyDynamicsScheduler
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.slot.checkpoints import mark_paused, remove_checkpoints
from sweepft.slot.trainable import WENT_ON
from sweepft.spec import TrainConfig

if TYPE_CHECKING:
    from sweepft.driver.command_handler import CommandHandler


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: ``completed | stopped | parked | diverged | failed | interrupted``.
        objective: Value at full budget, None unless completed.
        reason: A sentence, None for a completed trial.
    """

    status: str
    objective: float | None
    reason: str | None


INTERRUPTED = Outcome("interrupted", None, "the sweep was interrupted")


"""The trial did not end by itself, and nobody condemned it: it goes on when the sweep is resumed."""


def outcome(result: Mapping[str, Any], decision: Mapping[str, Any] | None) -> Outcome:
    """Decide how a trial ended.

    Args:
        result: Its last result, as reported to Tune.
        verdict: The row of its last verdict, None when it was never judged.
    """
    if result.get("failed") and "storage" in result:  # it failed with the sweep, not by itself
        return INTERRUPTED
    if result.get("failed"):
        return Outcome("failed", None, str(result["failed"]))
    if result.get("diverged"):
        return Outcome("diverged", None, str(result["diverged"]))
    if result.get("samples_seen", 0) >= result.get("budget_samples", math.inf):
        value = result.get("eval_loss")
        if value is None or not math.isfinite(value):
            return Outcome("diverged", None, f"the held-out loss at the end is {value}")
        return Outcome("completed", float(value), None)
    if decision is not None and decision["action"] == "divergence_check":
        return Outcome("diverged", None, decision["reason"])
    if decision is not None and decision["action"] == "stop":
        return Outcome("stopped", None, decision["reason"])
    if decision is not None and decision["action"] == "pause":
        return Outcome("paused", None, decision["reason"])
    return INTERRUPTED


class LedgerCallback(tune.Callback):
    """Turns Tune's events into ledger rows.

    Tune calls the scheduler before its callbacks, so a result's steps are written here before the verdicts it led to.

    Args:
        recorder: Where rows go.
        scheduler: Whose verdicts are recorded.
        searcher: Told how a trial ends before Tune tells it that it ended.
        losses: What is done about trials whose slot is gone, decided before Tune tells us; taken out here.
        gpus_per_slot: GPUs a slot holds, for the cost rows.
        begin: Unix seconds from which on the slots' time is accounted for: the driver's first row.
        slots: Slots at once, at most.
        states: Folder of the trials' states, where parked ones are noted.
        steering: Asked for commands at each turn of Tune's loop.
        elapsed: Seconds since ``begin``; None for this machine's clock.

    Attributes:
        on_left: Told the name of each trial, seed or exam that leaves its slot.
    """

    def __init__(
        self,
        event_log: EventLog,
        scheduler: EarlyDynamicsScheduler,
        searcher: OptunaSearcher,
        losses: MutableMapping[str, LostSlot],
        gpus_per_slot: float,
        begin: float,
        slots: int,
        checkpoints: Path,
        command_handler: CommandHandler | None = None,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        self._event_log = event_log
        self._scheduler = scheduler
        self._searcher = searcher
        self._losses = losses
        self._gpus = gpus_per_slot
        self._clock = TimeAccounting(0.0, slots)
        self._elapsed = elapsed or _elapsed_since(begin)
        self._checkpoints = checkpoints
        self._command_handler = command_handler
        self.on_left: Callable[[str], None] = lambda name: None
        self._attempts: dict[str, int] = {}
        self._faults: dict[str, int] = {}
        self._decisions: dict[str, Row] = {}
        self._outcomes: dict[str, Outcome] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles callbacks for its own restore, which we do not use: the ledger is the truth.
        return {}

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Tune's loop turns, at least ten times a second or so."""
        if self._command_handler is not None:
            self._command_handler.poll()

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """A proposal gets its slot: a new trial, or one that was interrupted, parked or lost; or an exam."""
        if "eval_job" in trial.config:
            return
        for memory in (self._attempts, self._faults, self._decisions):
            memory.pop(trial.config["trial_id"], None)
        self._write_trial(trial.config)

    def _write_trial(self, config: dict[str, Any]) -> None:
        """The row of a trial that has none."""
        if config["trial_id"] in self._event_log.view.trials:
            return
        train_config: TrainConfig = config["train_config"]
        self._event_log.write(
            "trial",
            trial_id=config["trial_id"],
            number=config["number"],
            params=config["params"],
            train_config=train_config.to_dict(),
            origin=config["origin"],
            planned_steps=train_config.planned_steps,
            warmup_steps=train_config.warmup_steps,
            study_number=config.get("study_number"),
            replicate_of=config.get("replicate_of"),
        )

    def on_trial_result(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A report point: faults and attempt (if new), steps, held-out losses, verdicts, costs."""
        name = trial.config["trial_id"]
        if "eval_job" in trial.config:
            self._write_eval_job(name, result)
            return
        new_fault = self._write_faults(name, result, told_as=name)
        if "history" in result:
            self._write_steps(name, result, self._attempt(name, result, new_fault))
        self._write_decisions()
        # The cost rows close a result: who resumes takes a result without them as not written.
        for phase, seconds in result["phase_seconds"].items():
            self._write_cost(name, result["slot"], phase, seconds)
        between = self._clock.result(result["slot"], name, self._elapsed(), result["phase_seconds"])
        if between is not None:
            self._write_cost(None, result["slot"], *between)
        if result.get("done"):
            how = outcome(result, self._decisions.get(name))
            if how is INTERRUPTED and result.get("paused"):
                how = Outcome("interrupted", None, "the sweep was paused")
            self._outcomes[name] = how
            self._searcher.set_outcome(name, how.status, how.objective, how.reason)
            if how.status in ("paused", "interrupted"):  # its state is needed again
                mark_paused(self._checkpoints / name)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """A trial is over, whoever ended it; a parked one has not ended, also if it was about to come back."""
        name = trial.config["trial_id"]
        how = self._outcomes.pop(name, INTERRUPTED)
        self._clock.leave(name)
        self.on_left(name)
        if "eval_job" in trial.config:
            return
        if how.status in ("paused", "interrupted") and self._event_log.view.trials[name].status == "paused":
            return
        self._end(name, how, trial.last_result or {})
        self._end_on_full_storage(trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """A trial's coordinator is gone: faults of ranks do not come this way, they are reported as results."""
        name, result = trial.config["trial_id"], trial.last_result or {}
        loss, slot = self._losses.pop(name), result.get("slot")
        eval_job = "eval_job" in trial.config
        told_as = None if eval_job else name
        self.on_left(name)
        if not eval_job:
            self._write_trial(trial.config)  # it may have been lost before it began
        lost = self._clock.lose(slot, self._elapsed()) if slot else 0.0
        self._event_log.write(
            "fault", trial_id=told_as, slot=slot, rank=None, error=loss.error, message=loss.message,
            action=loss.action, lost_seconds=lost,
        )  # fmt: skip
        if slot:
            self._write_cost(told_as, slot, "lost", lost)
        if eval_job:
            self._faults.pop(name, None)
            return
        paused = self._event_log.view.trials[name].status == "paused"  # about to come back, and stays so
        if loss.status == "failed" or (loss.status == "interrupted" and not paused):
            self._end(name, Outcome(loss.status, None, loss.message), result)
        if loss.status == "failed":
            remove_checkpoints(self._checkpoints / name)

    def _end_on_full_storage(self, result: dict[str, Any]) -> None:
        """A slot cannot write: neither could the next trial. The trial's own rows are written; nothing else follows."""
        if "storage" in result:
            self._event_log.failure = StorageError(
                f"{self._checkpoints.parent}: {result['storage']}\n"
                "  Free space or make the folder writable, then resume the run."
            )
            raise self._event_log.failure

    def close(self) -> None:
        """Write what each slot has waited since its last trial: the sweep is over."""
        for slot, seconds in self._clock.close(self._elapsed()).items():
            self._write_cost(None, slot, "idle", seconds)

    def _write_eval_job(self, name: str, result: dict[str, Any]) -> None:
        """One part of an exam: it is the slot's time, no trial's."""
        self._write_faults(name, result, told_as=None)
        self._event_log.write("score", **result["scored"], slot=result["slot"])
        for phase, seconds in result["phase_seconds"].items():
            self._write_cost(None, result["slot"], phase, seconds)
        between = self._clock.result(result["slot"], name, self._elapsed(), result["phase_seconds"])
        if between is not None:
            self._write_cost(None, result["slot"], *between)

    def _write_cost(self, name: str | None, slot: str, phase: str, seconds: float) -> None:
        self._event_log.write("cost", trial_id=name, slot=slot, phase=phase, seconds=seconds, gpus=self._gpus)

    def _write_faults(self, name: str, result: dict[str, Any], told_as: str | None) -> bool:
        """Faults since the last result, as those of trial ``told_as``; whether the trial was begun anew after any."""
        faults = result["faults"][self._faults.get(name, 0) :]
        for fault in faults:
            self._event_log.write("fault", trial_id=told_as, slot=result["slot"], rank=None, **fault)
        self._faults[name] = len(result["faults"])
        return any(fault["action"] != WENT_ON for fault in faults)

    def _attempt(self, name: str, result: dict[str, Any], new_fault: bool) -> int:
        """Number of the attempt this result is of; a new one begins with the trial and after each fault."""
        attempt = self._attempts.get(name)
        if attempt is None or new_fault:
            attempt = self._attempts[name] = len(self._event_log.view.trials[name].attempts) + 1
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
        if "eval_loss" in result:
            final = result["samples_seen"] >= result["budget_samples"]
            self._event_log.write(
                "eval",
                trial_id=name,
                attempt=attempt,
                step=result["step"],
                samples_seen=result["samples_seen"],
                rung=result["rung"],
                final=final,
                objective=result["eval_loss"],
                sets=result["eval_sets"] if final else without_residuals(result["eval_sets"]),
                seconds=result["eval_seconds"],
            )

    def _write_decisions(self) -> None:
        for decision in self._scheduler.drain_decisions():
            row = self._event_log.write("decision", **decision.to_row())
            self._decisions[row["trial_id"]] = row

    def _end(self, name: str, how: Outcome, result: dict[str, Any]) -> None:
        self._event_log.write(
            "end",
            trial_id=name,
            attempt=self._attempts.get(name, 1),
            status=how.status,
            reason=how.reason,
            objective=how.objective,
            step=result.get("step", 0),
            samples_seen=result.get("samples_seen", 0),
            tokens_seen=result.get("tokens_seen", 0),
        )


def _elapsed_since(begin: float) -> Callable[[], float]:
    """Seconds since a moment (Unix seconds), on a clock that never runs backwards."""
    zero = time.monotonic() - (time.time() - begin)
    return lambda: time.monotonic() - zero
