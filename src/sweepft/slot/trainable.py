"""A slot: the coordinator of one group of ranks, as a class trainable.

It holds no torch and a sliver of CPU. Tune hands it trial after trial (``reuse_actors=True``); its ranks stay
alive between them, and one engine serves them all.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from sweepft.errors import (
    PackingMismatch,
    RankCannotWrite,
    RankFailed,
    RankHung,
    RankOutOfMemory,
    SlotLost,
    TrialError,
)
from sweepft.slot.checkpoints import (
    CheckpointPolicy,
    is_paused,
    mark_resumed,
    newest_checkpoint,
    pause_requested,
    remove_checkpoints,
)
from sweepft.slot.eval_job import EvalJob
from sweepft.slot.group import WorkerGroup, WorkerShape
from sweepft.slot.report_points import ReportPoint, report_points
from sweepft.slot.weight_retention import KeepPolicy
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig

RANKS_REBUILT = "ranks rebuilt"


"""What the ledger says was done about a fault after which new ranks went on with the trial."""


WENT_ON = "went on without"


"""What it says about a state that could not be written: the ranks did not notice."""


_FIRST_WRITE_SECONDS = 3.0


"""Taken for the time to write a state until one has been written: a trial of a minute then tries."""


_SPARE_SECONDS = 120


"""How long a slot that has lost a node waits for another one; a trial without a slot waits for ever."""


_EVAL_PATIENCE = 24.0


"""Times ``patience`` for one part of an exam: a large benchmark takes hours, and says nothing on its way."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotConfig:
    """What a slot needs beside the trial's own config.

    Attributes:
        engine: What all trials share.
        shape: The slot's ranks.
        log_dir: Folder for the ranks' log files.
        keep: Whose weights are kept.
        states: When a trial's state is written.
        max_faults: How often a trial is brought back, by rebuilt ranks or on another slot, before it has failed.
        hang_seconds: How long beyond ten times the usual pace a rank may be silent.
        judge_key: The driver's key for the judge of MT-Bench; a plan goes through memory alone.
        patience: Longest wait for anything not measured yet, in seconds (model load, a trial's first steps).
    """

    engine: EngineConfig
    shape: WorkerShape
    log_dir: str
    keep: KeepPolicy
    checkpoints: CheckpointPolicy
    max_faults: int = 2
    hang_seconds: float = 60.0
    patience: float = 3600.0
    judge_key: str | None = field(default=None, repr=False)


class Slot(tune.Trainable):
    """One slot.

    Its config holds ``trial_id``, ``train_config`` and, for a trial that was on a slot before
    (interrupted, parked, or its slot lost), ``reported_samples`` and ``faults``: how often it was brought back;
    ``keep`` when its weights are wanted whatever its loss. With ``eval_job`` nothing is trained: kept weights are scored
    (see ``sweepft.slot.eval_job``).
    """

    def setup(self, config: dict[str, Any], plan: SlotConfig) -> None:
        """Take the slot; ranks start with the first step, so that a failure there is the trial's and not fatal."""
        self._plan = plan
        self._since = time.monotonic()
        self._group: WorkerGroup | None = None
        self._write_seconds = _FIRST_WRITE_SECONDS
        self._name = f"{ray.util.get_node_ip_address().replace('.', '-')}-{os.getpid()}"
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; the ranks live on."""
        self._leave()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report point and report every step on the way there."""
        while True:
            try:
                return self._advance()
            except TrialError as error:
                if not self._mend(error):
                    return (
                        self._failure(error)
                        if self._eval_job is None
                        else self._give_up(self._eval_job, error)
                    )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept here: the ledger is the truth."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """A trial that comes back starts again from the base weights."""

    def cleanup(self) -> None:
        """End the ranks."""
        self._close_ranks()

    def _leave(self) -> None:
        """The trial before is over, and its states with it; a parked one may come back, and leaves its state here."""
        if not is_paused(self._checkpoints):
            remove_checkpoints(self._checkpoints)
        elif self._begun and self._at_rung:
            try:
                self._save()
            except TrialError as error:
                _log.warning("state not written: trial=%s %s", self._trial_id, error)
                self._close_ranks()

    def _take(self, config: dict[str, Any]) -> None:
        engine = self._plan.engine
        self._trial_id: str = config["trial_id"]
        self._train_config: TrainConfig = config["train_config"]
        self._eval_job = EvalJob(config["eval_job"]) if config.get("eval_job") else None
        self._keep = bool(config.get("keep"))
        self._points = report_points(engine.budget_samples, engine.rungs, self._train_config.batch_size)
        reported = config.get("reported_samples", 0)
        self._next = sum(point.samples <= reported for point in self._points)
        self._checkpoints = Path(self._plan.checkpoints.folder) / self._trial_id
        mark_resumed(self._checkpoints)
        self._unsaved_seconds = 0.0
        self._at_rung = False
        self._begun = False
        self._started: dict[str, Any] = {}
        self._faults: list[dict[str, Any]] = []
        self._brought_back = config.get("faults", 0)
        self._raised: tuple[str, int] | None = None
        self._seconds: dict[str, float] = {}
        self._step_seconds = 0.0
        self._since = time.monotonic()

    def _mend(self, error: TrialError) -> bool:
        """End the ranks and note the fault; whether the next ``_advance`` may try again with new ones."""
        self._close_ranks()
        self._begun = False
        again, action = False, "given up"
        if isinstance(error, RankOutOfMemory) and self._eval_job is not None:
            halved = self._eval_job.halve()
            again, action = halved is not None, halved or action
        elif isinstance(error, RankOutOfMemory):  # starting new ranks would only run out of memory again
            if self._plan.engine.micro_batch > self._plan.engine.least_micro_batch:
                again, action = True, self._halve_micro_batch()
        elif isinstance(error, PackingMismatch | RankCannotWrite):
            pass  # other ranks would find the same
        elif isinstance(error, RankFailed | RankHung) and not self._own_fault(error):
            self._brought_back += 1
            again = self._brought_back <= self._plan.max_faults
            action = RANKS_REBUILT if again else "given up"
        spent = time.monotonic() - self._since  # since the last result: none of it counts
        lost = spent - self._seconds.get("lost", 0.0)
        self._seconds = {"lost": spent}
        self._faults.append(
            {"error": type(error).__name__, "message": str(error), "action": action, "lost_seconds": lost}
        )
        _log.warning("fault: trial=%s action=%r %s", self._trial_id, action, error)
        return again

    def _own_fault(self, error: TrialError) -> bool:
        """Whether a rank, this one or another, has raised the same error on the way to the same report point before.

        Where all ranks raise it, any of them may be the one that is seen first. New ranks would raise it too.
        """
        before, self._raised = self._raised, (re.sub(r"\brank \d+", "a rank", str(error)), self._next)
        return type(error) is RankFailed and self._raised == before

    def _halve_micro_batch(self) -> str:
        """For this and all later trials of the slot; the global batch stays what it is."""
        before = self._plan.engine.micro_batch
        self._plan = replace(self._plan, engine=replace(self._plan.engine, micro_batch=before // 2))
        return f"micro_batch {before} -> {before // 2}"

    def _failure(self, error: TrialError) -> dict[str, Any]:
        """The last result of a trial that cannot go on: a result, not an exception, so that its cause arrives whole."""
        reason = str(error)
        if isinstance(error, RankOutOfMemory):
            engine, shape = self._plan.engine, self._plan.shape
            more = "gpus_per_worker" if 0 < shape.gpus < 1 else "workers_per_trial"
            reason += (
                f"\n  one sample of up to {engine.longest} tokens does not fit beside the model at ZeRO-"
                f"{engine.zero_stage} on {shape.workers} rank(s): raise resources.{more} or "
                "train.zero_stage, set train.gradient_checkpointing: true, or lower data.max_length"
            )
        faults, seconds = list(self._faults), dict(self._seconds)
        failure = {
            "failed": reason,
            "faults": faults,
            "slot": self._name,
            "phase_seconds": seconds,
            "done": True,
        }
        return failure | ({"storage": reason} if isinstance(error, RankCannotWrite) else {})

    def _advance(self) -> dict[str, Any]:
        if not self._begun:
            self._begin()
        elif self._at_rung:
            self._save()
        assert self._group is not None
        if self._eval_job is not None:
            scored = self._eval_job.take(
                self._group, _EVAL_PATIENCE * self._plan.patience, self._plan.judge_key
            )
            self._spend("evaluate", scored["seconds"])
            return self._scored(self._eval_job, scored)
        point = self._points[self._next]
        chunk = self._group.run(point.samples, self._timeout(point))
        self._spend("train", chunk["seconds"] - chunk["waited"])
        self._spend("data", chunk["waited"])
        self._unsaved_seconds += chunk["seconds"]
        self._step_seconds = max(self._step_seconds, *chunk["history"]["seconds"])
        result = self._result(point, chunk)
        if chunk["diverged"] is None and point.rung is not None:
            validation = self._group.evaluate(self._plan.patience)
            self._spend("evaluate", validation["seconds"])
            result |= {
                "eval_loss": validation["objective"],
                "eval_sets": validation["sets"],
                "rung": point.rung,
            }
            result["eval_seconds"] = validation["seconds"]
        self._next += 1
        self._at_rung = point.rung is not None
        result["done"] = chunk["diverged"] is not None or self._next == len(self._points)
        if result["done"]:
            self._end(result)
        elif pause_requested(Path(self._plan.checkpoints.folder)):
            if self._plan.checkpoints.policy != "none":
                self._write_state()
            result["paused"] = True
        return self._told(result)

    def _scored(self, eval_job: EvalJob, fields: dict[str, Any]) -> dict[str, Any]:
        """The result of one part of an exam."""
        self._rebuilds = 0
        faults = list(self._faults)
        return self._told({"scored": fields, "slot": self._name, "faults": faults, "done": eval_job.done})

    def _give_up(self, eval_job: EvalJob, error: TrialError) -> dict[str, Any]:
        """A part of an exam cannot be scored; the next one begins on new ranks."""
        return self._scored(eval_job, eval_job.give_up(str(error)))

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with where its time went."""
        now = time.monotonic()
        self._spend("other", max(0.0, now - self._since - sum(self._seconds.values())))
        result["phase_seconds"], self._seconds, self._since = dict(self._seconds), {}, now
        return result

    def _begin(self) -> None:
        """Start the trial from its base weights; after a fault or a resume, train silently to where it had reported."""
        begin = time.monotonic()
        if self._group is None:
            placement = ray.util.get_current_placement_group()
            if not placement.wait(_SPARE_SECONDS):  # a node of it is gone, and no other one has room
                raise SlotLost(f"no node has had room for all ranks of the slot for {_SPARE_SECONDS} s")
            prefix = str(Path(self._plan.log_dir) / f"slot-{self._name}")
            self._group = WorkerGroup(self._plan.engine, self._plan.shape, placement, prefix)
        self._started = self._group.start(self._train_config, self._plan.patience)
        if self._plan.engine.micro_batch == 0:
            rows = self._group.find_max_micro_batch(self._plan.patience)
            self._plan = replace(self._plan, engine=replace(self._plan.engine, micro_batch=rows))
            self._started = self._group.start(self._train_config, self._plan.patience)
        self._started["switch_seconds"] = time.monotonic() - begin
        self._started["nodes"] = sorted({p["host"] for p in self._group.places})
        self._spend("switch", self._started["switch_seconds"])
        self._started["from_step"] = 0
        self._begun = True
        if self._eval_job is not None and self._eval_job.weights is not None:
            loaded = self._group.load_weights(self._eval_job.weights, self._plan.patience)
            self._spend("switch", loaded["seconds"])
        elif self._next > 0:
            self._go_back_to(self._points[self._next - 1].samples)

    def _go_back_to(self, samples: int) -> None:
        """Bring a fresh trial to where it had reported: from its newest state, and by training what is missing."""
        assert self._group is not None
        step = reached = 0
        state = newest_checkpoint(self._checkpoints, at_most=samples)
        if state is not None:
            try:
                restored = self._group.restore(str(state), self._plan.patience)
            except RankFailed:
                remove_checkpoints(self._checkpoints)  # the next try trains from the start
                raise
            step, reached = restored["step"], restored["samples"]
            self._spend("lost", restored["seconds"])
        if reached < samples:
            again = self._group.run(samples, self._plan.patience)
            step = again["history"]["step"][-1]
            self._spend("lost", again["seconds"])
        self._started["from_step"] = step

    def _save(self) -> None:
        """Write the state of a trial that was let pass its window, where the policy says that it pays."""
        if self._plan.checkpoints.due(self._unsaved_seconds, self._write_seconds):
            self._write_state()

    def _write_state(self) -> None:
        assert self._group is not None
        seen = self._points[self._next - 1].samples
        done = self._group.save(str(self._checkpoints / str(seen)), self._plan.patience)
        self._spend("checkpoint", done["seconds"])
        if "skipped" in done:
            self._note_unwritten(done["skipped"])
            return
        self._write_seconds, self._unsaved_seconds = done["seconds"], 0.0

    def _note_unwritten(self, why: str) -> None:
        """A state could not be written: a fault now would cost more, no more than that. Told once a trial."""
        _log.warning("state not written: trial=%s %s", self._trial_id, why)
        if not any(fault["action"] == WENT_ON for fault in self._faults):
            self._faults.append(
                {"error": "StateNotWritten", "message": why, "action": WENT_ON, "lost_seconds": 0.0}
            )

    def _end(self, result: dict[str, Any]) -> None:
        """The trial's last result: keep its weights if it is among the best; its state is of no more use."""
        assert self._group is not None
        keep, value = self._plan.keep, result.get("eval_loss")
        name = self._trial_id
        if value is not None and math.isfinite(value) and (self._keep or keep.wanted(name, value)):
            try:
                done = self._group.export(str(Path(keep.folder) / name), keep.tokenizer, self._plan.patience)
                self._spend("export", done["seconds"])
            except RankCannotWrite as error:  # what was measured stands; the sweep ends with this result
                result["storage"] = str(error)
                self._close_ranks()
                self._begun = False
        remove_checkpoints(self._checkpoints)

    def _result(self, point: ReportPoint, chunk: dict[str, Any]) -> dict[str, Any]:
        history = chunk["history"]
        result: dict[str, Any] = {name: values[-1] for name, values in history.items() if name != "seconds"}
        result |= {
            "history": history,
            "blocks": chunk["blocks"],
            "data_order": self._started["data_order"],
            "warmup_steps": self._train_config.warmup_steps,
            "planned_steps": self._train_config.planned_steps,
            "budget_samples": self._plan.engine.budget_samples,
            "slot": self._name,
            "micro_batch": self._plan.engine.micro_batch,
            "started": {k: self._started[k] for k in ("warm", "switch_seconds", "nodes", "from_step")},
            "faults": list(self._faults),
        }
        if chunk["diverged"] is not None:
            result["diverged"] = chunk["diverged"]
        return result

    def _timeout(self, point: ReportPoint) -> float:
        """Seconds to wait for a chunk: ten times what the slowest step so far would make of it."""
        if self._step_seconds == 0.0:
            return self._plan.patience
        done = self._points[self._next - 1].samples if self._next else 0
        steps = -(-(point.samples - done) // self._train_config.batch_size)
        return self._plan.hang_seconds + 10.0 * steps * self._step_seconds

    def _spend(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def _close_ranks(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
