"""One trial on a slot: training from report point to report point, checkpoints, and a restart after a fault."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

from sweepft.errors import HostOutOfMemory, RankCannotWrite, RankFailed, RankOutOfMemory, TrialError
from sweepft.slot.best_point import BestPoint, better_of, out_of_patience
from sweepft.slot.checkpoints import (
    is_exempt,
    is_paused,
    mark_resumed,
    newest_checkpoint,
    pause_requested,
    remove_checkpoints,
)
from sweepft.slot.jobs import ObjectiveTask, TrialJob, report_points
from sweepft.slot.state import PLAIN_KERNELS, SLOWER, TASK_PATIENCE, WENT_ON, SlotState

_log = logging.getLogger(__name__)
_STARTED = ("warm", "switch_seconds", "nodes", "from_step", "phase_starts")


class TrialRun:
    """Trains one trial.

    Args:
        slot: Its slot.
        job: The trial.

    Attributes:
        name: Of the trial.
        faults: What went wrong so far, as ``fault`` rows have it.
        restarts: How often it was restarted after a fault, on this slot or another.
        position: The index of the next report point.
        job: As given.
    """

    def __init__(self, slot: SlotState, job: TrialJob) -> None:
        engine = slot.config.engine
        self._slot = slot
        self.job = job
        self.name = job.trial_id
        self.faults: list[dict[str, Any]] = []
        self.restarts = job.restarts
        self._points = report_points(engine.budget_samples, engine.rungs, job.train_config.batch_size)
        self.position = sum(point.samples <= job.reported_samples for point in self._points)
        self._checkpoints = Path(slot.config.checkpoints.folder) / job.trial_id
        self._started: dict[str, Any] | None = None
        self._reported = self._caught_up = False
        self._unsaved_seconds = 0.0
        self._writing = False
        self._at_rung = False
        self._best = job.best
        self._step_seconds = 0.0
        self._measuring: str | None = None
        mark_resumed(self._checkpoints)

    def advance(self) -> dict[str, Any]:
        """Train to the next report point; the result holds every step on the way there."""
        self._measuring = None
        if self._started is None:
            self._start()
        elif self._at_rung:
            self._checkpoint_if_due()
        group, clock = self._slot.group, self._slot.clock
        point = self._points[self.position]
        done = self._points[self.position - 1].samples if self.position else 0
        chunk = self._train(done, point.samples)
        clock.spend("train", chunk["seconds"] - chunk["waited"])
        clock.spend("data", chunk["waited"])
        self._unsaved_seconds += chunk["seconds"]
        result = self._result(chunk)
        if chunk["diverged"] is None and point.rung is not None:
            validation = group.evaluate(self._slot.config.patience)
            clock.spend("evaluate", validation["seconds"])
            result |= {
                "eval_sets": validation["sets"],
                "eval_seconds": validation["seconds"],
                "rung": point.rung,
                **self._measured(validation["objective"], point.rung),
            }
        best = self._best_after(result)
        result["done"] = chunk["diverged"] is not None or point is self._points[-1] or "patience" in result
        if result["done"]:
            self._end(result, best)
        elif pause_requested(Path(self._slot.config.checkpoints.folder)):
            if self._slot.config.checkpoints.policy != "none":
                self._write_checkpoint(point.samples)
                self._settle_checkpoint()
                result["faults"] = list(self.faults)
            result["paused"] = True
        self.position += 1  # the point is reached once nothing can fail any more: a fault before repeats it
        self._reported = True
        self._at_rung = point.rung is not None
        self._best = best
        return result | {"phase_seconds": clock.close()}

    def _measured(self, loss: float, rung: float) -> dict[str, Any]:
        """The objective at a rung, the validation loss or the metric of a task, and further tasks, where they are due
        there.

        Args:
            loss: The weighted validation loss.
            rung: Nominal fraction of the budget.
        """
        config, rungs = self._slot.config, self.job.objective_rungs
        result: dict[str, Any] = {}
        if config.objective is None or not math.isfinite(loss):
            result["objective"] = loss
        if not math.isfinite(loss) or (rung < 1 and rungs is not None and rung not in rungs):
            return result
        tasks: dict[str, Any] = {}
        if config.objective is not None:
            found = self._measure(config.objective)
            if config.objective.task.name in config.keep.bounded:
                tasks[config.objective.task.name] = config.objective.result({**found, "seconds": 0.0})
            stderr = found["stderr"]
            result |= {"objective": found.pop("value"), "objective_stderr": stderr, "objective_task": found}
        for wanted in config.measured:
            tasks[wanted.task.name] = wanted.result(self._measure(wanted))
        return result | ({"eval_tasks": tasks} if tasks else {})

    def _measure(self, wanted: ObjectiveTask) -> dict[str, Any]:
        """Measure the weights as they stand on a task."""
        self._measuring = wanted.task.name
        patience = TASK_PATIENCE * self._slot.config.patience
        found = self._slot.group.measure(wanted.task, wanted.metric, wanted.tokenizer, patience)
        self._measuring = None
        self._slot.clock.spend("evaluate", found["seconds"])
        return found

    def _all_bounded(self, result: dict[str, Any]) -> bool:
        """Whether everything with a bound was measured."""
        return {*result["eval_sets"], *result.get("eval_tasks", ())} >= {*self._slot.config.keep.bounded}

    def _best_after(self, result: dict[str, Any]) -> BestPoint | None:
        """The trial's best evaluation after this result, which gets its fields. The weights of a new best one are
        copied where they may be needed.
        """
        if not self._slot.config.at_best or "eval_sets" not in result:
            return self._best
        if "objective" not in result or not self._all_bounded(result):  # a task that is not measured here
            so_far = {} if self._best is None or "objective" not in result else self._best.fields()
            result |= {**so_far, "best_is_new": False}
            return self._best
        point = self._points[self.position]
        found = self._evaluation(result)
        best = better_of(self._best, found, self.job.limits, self._slot.config.keep.objective)
        if best is None:
            return None
        result |= best.fields()
        if point is self._points[-1]:
            return best
        reason = out_of_patience(best, self.job.patience)
        if reason is not None and math.isfinite(found.objective) and not is_exempt(self._checkpoints):
            result["patience"] = reason
        elif best is found and self._wanted(best):
            self._keep_copy()
        return best

    def _evaluation(self, result: dict[str, Any]) -> BestPoint:
        """The evaluation in a result."""
        losses = {name: found["loss"] for name, found in result["eval_sets"].items()}
        losses |= {name: found["cost"] for name, found in result.get("eval_tasks", {}).items()}
        samples, stderr = self._points[self.position].samples, result.get("objective_stderr")
        return BestPoint(result["step"], samples, result["objective"], losses, stderr=stderr)

    def _keep_copy(self) -> None:
        """Copy the weights as they are now: they may be those that are exported."""
        copied = self._slot.group.keep_weights(self._slot.config.patience)
        self._slot.clock.spend("export", copied["seconds"])

    def _wanted(self, best: BestPoint) -> bool:
        """Whether the weights of this point are kept if the trial does not become better."""
        return self.job.keep_weights or self._slot.config.keep.wanted(self.name, best.objective, best.losses)

    @property
    def starting(self) -> bool:
        """Whether the trial has not reported on this slot, or not started again since its ranks were lost."""
        return self._started is None or not self._reported

    @property
    def repeating(self) -> bool:
        """Whether the trial is on the way to a point that it has reached before, on this slot or another."""
        return self.position > 0 and not self._caught_up

    def reset(self) -> None:
        """The ranks are gone: the next `advance` starts the trial again."""
        self._started = None
        self._writing = False

    def save_memory(self) -> str | None:
        """Halve the micro-batch after the ranks ran out of memory, or the batch of the task that they were measured on;
        what was done, None where nothing can be.

        The global batch stays the same.
        """
        if self._measuring is not None:
            return self._slot.halve_task_batch(self._measuring)
        engine = self._slot.config.engine
        if engine.micro_batch <= engine.least_micro_batch:
            return None
        halved = engine.micro_batch // 2
        self._slot.set_micro_batch(halved)
        return f"micro_batch {engine.micro_batch} -> {halved}"

    def failure(self, error: TrialError) -> dict[str, Any]:
        """The last result of a trial that cannot continue. A result, unlike an exception, keeps the whole cause."""
        reason = str(error)
        if isinstance(error, HostOutOfMemory):
            reason += (
                "\n  lower resources.concurrent_trials, use nodes with more main memory, or raise the share of it at "
                "which Ray ends processes (RAY_memory_usage_threshold, set where Ray starts)"
            )
        elif isinstance(error, RankOutOfMemory):
            engine, shape = self._slot.config.engine, self._slot.config.shape
            more = "gpus_per_worker" if 0 < shape.gpus < 1 else "workers_per_trial"
            reason += (
                f"\n  one sample of up to {engine.longest} tokens does not fit beside the model at ZeRO-"
                f"{engine.zero_stage} on {shape.workers} rank(s): raise resources.{more} or "
                "train.zero_stage, set train.gradient_checkpointing: true, or lower data.max_length"
            )
        result = {
            "failed": reason,
            "faults": list(self.faults),
            "slot": self._slot.name,
            "phase_seconds": self._slot.clock.seconds,
            "done": True,
        }
        return result | ({"storage": reason} if isinstance(error, RankCannotWrite) else {})

    def leave(self) -> None:
        """The slot takes another job. A paused trial leaves a checkpoint; those of an ended one go."""
        paused = is_paused(self._checkpoints)
        try:
            if paused and self._started is not None and self._at_rung:
                self._checkpoint_if_due()
            self._settle_checkpoint(cancel=not paused)
        except TrialError as error:
            _log.warning("checkpoint not written: trial=%s %s", self.name, error)
            self._slot.close_ranks()
        if not paused:
            remove_checkpoints(self._checkpoints)

    def _start(self) -> None:
        """Start from the base weights; after a fault or a resume, train up to the last reported result."""
        self._caught_up = False
        started = self._slot.start(self.job.train_config)
        self._started = started
        if started["narrow"] is not None:
            self._note("NarrowAffinity", started["narrow"], SLOWER)
        if started["plain_kernels"] is not None:
            self._note("LigerGivenUp", started["plain_kernels"], PLAIN_KERNELS)
        if self.position > 0:
            started["from_step"] = self._catch_up(self._points[self.position - 1].samples)
        self._caught_up = True

    def _catch_up(self, samples: int) -> int:
        """Restore the newest checkpoint and train what is missing, without reporting. Returns the step reached."""
        group, clock, patience = self._slot.group, self._slot.clock, self._slot.config.patience
        step = reached = 0
        checkpoint = newest_checkpoint(self._checkpoints, at_most=samples)
        if checkpoint is not None:
            try:
                restored = group.restore(str(checkpoint), patience)
            except RankFailed:
                remove_checkpoints(self._checkpoints)  # the next try trains from the start
                raise
            step, reached = restored["step"], restored["samples"]
            clock.spend("lost", restored["seconds"])
            self._copy_again(reached)
        for point in self._points:  # as in the first run, so that no part takes long
            if reached < point.samples <= samples:
                chunk = self._train(reached, point.samples)
                step, reached = chunk["history"]["step"][-1], point.samples
                clock.spend("lost", chunk["seconds"])
                self._copy_again(reached)
        return int(step)

    def _copy_again(self, samples: int) -> None:
        """Copy the weights where the best evaluation was: the copy went with the ranks or another trial."""
        if self._best is not None and samples == self._best.samples and self._wanted(self._best):
            self._keep_copy()

    def _return_to(self, best: BestPoint) -> None:
        """Have the weights of the best evaluation in the engine: from the copy, or by training up to there again."""
        group, clock, patience = self._slot.group, self._slot.clock, self._slot.config.patience
        loaded = group.use_kept_weights(best.samples, patience)
        clock.spend("export", loaded["seconds"])
        if loaded["found"]:
            return
        self._slot.start(self.job.train_config)
        reached = 0
        for point in self._points:
            if reached < point.samples <= best.samples:
                chunk = self._train(reached, point.samples)
                reached = point.samples
                clock.spend("lost", chunk["seconds"])

    def _checkpoint_if_due(self) -> None:
        policy, seconds = self._slot.config.checkpoints, {"stalled": 0.0, "written": 0.0}
        if policy.policy == "auto":
            seconds = self._slot.expected_checkpoint_seconds(str(self._checkpoints))
        if policy.due(self._unsaved_seconds, **seconds):
            self._write_checkpoint(self._points[self.position - 1].samples)

    def _write_checkpoint(self, samples: int) -> None:
        """Begin to write a checkpoint; the one before is complete then."""
        done = self._slot.group.save(str(self._checkpoints / str(samples)), self._slot.config.patience)
        self._slot.clock.spend("checkpoint", done["seconds"])
        self._note_written(done["former"])
        if "skipped" in done:
            self._note_unwritten(done["skipped"])
        else:
            known = self._slot.checkpoint_seconds or {"written": 0.0}
            self._slot.checkpoint_seconds = known | {"stalled": done["seconds"]}
            self._writing, self._unsaved_seconds = True, 0.0

    def _settle_checkpoint(self, cancel: bool = False) -> None:
        """Wait for the checkpoint that is being written, or give it up where it is of no more use."""
        if not self._writing:
            return
        begin = time.monotonic()
        done = self._slot.group.settle_checkpoint(self._slot.config.patience, cancel=cancel)
        self._writing = False
        self._slot.clock.spend("checkpoint", time.monotonic() - begin)
        if not cancel:
            self._note_written(done)

    def _note_written(self, done: dict[str, Any]) -> None:
        """How long a checkpoint was written behind training, or why there is none."""
        if "skipped" in done:
            self._note_unwritten(done["skipped"])
        elif done["seconds"] and self._slot.checkpoint_seconds is not None:
            self._slot.checkpoint_seconds |= {"written": done["seconds"]}

    def _note_unwritten(self, why: str) -> None:
        """Note once a trial that its checkpoint could not be written. A fault would now cost more; nothing else
        changes.
        """
        _log.warning("checkpoint not written: trial=%s %s", self.name, why)
        self._note("StateNotWritten", why, WENT_ON)

    def _note(self, error: str, message: str, action: str) -> None:
        """Note something that restarts nothing, once a trial."""
        if not any(fault["action"] == action for fault in self.faults):
            self.faults.append({"error": error, "message": message, "action": action, "lost_seconds": 0.0})

    def _end(self, result: dict[str, Any], best: BestPoint | None) -> None:
        """Keep the weights if the trial is among the best; its checkpoints are of no more use.

        Args:
            result: Its last one.
            best: Its best evaluation where trials count by that; else None, and the last one counts.
        """
        self._settle_checkpoint()
        result["faults"] = list(self.faults)
        last, keep = result.get("objective"), self._slot.config.keep
        if last is not None and math.isfinite(last):
            end = self._evaluation(result)
            counts = best or end
            if self._wanted(counts):
                try:
                    if counts.samples != end.samples:
                        self._return_to(counts)
                    done = self._slot.group.export(
                        str(Path(keep.folder) / self.name), keep.tokenizer, self._slot.config.patience
                    )
                    self._slot.clock.spend("export", done["seconds"])
                except RankCannotWrite as error:  # the losses are valid; the sweep ends with this result
                    result["storage"] = str(error)
                    self._slot.close_ranks()
                    self.reset()
        remove_checkpoints(self._checkpoints)

    def _result(self, chunk: dict[str, Any]) -> dict[str, Any]:
        assert self._started is not None
        history, engine = chunk["history"], self._slot.config.engine
        result: dict[str, Any] = {name: values[-1] for name, values in history.items() if name != "seconds"}
        result |= {
            "history": history,
            "blocks": chunk["blocks"],
            "data_order": self._started["data_order"],
            "phase_starts": self._started["phase_starts"],
            "warmup_steps": self.job.train_config.warmup_steps,
            "planned_steps": self.job.train_config.planned_steps,
            "budget_samples": engine.budget_samples,
            "slot": self._slot.name,
            "node_ids": list(self._slot.nodes),
            "gpus": self._slot.gpus,
            "micro_batch": engine.micro_batch,
            "started": {k: self._started[k] for k in _STARTED},
            "faults": list(self.faults),
        }
        if chunk["diverged"] is not None:
            result["diverged"] = chunk["diverged"]
        return result

    def _train(self, done: int, until: int) -> dict[str, Any]:
        """Train from one report point to the next one."""
        hang_seconds = self._slot.config.hang_seconds
        chunk = self._slot.group.run(until, self._timeout(done, until), hang_seconds)
        self._step_seconds = max(self._step_seconds, *chunk["history"]["seconds"])
        return chunk

    def _timeout(self, done: int, until: int) -> float:
        """Seconds to wait for a chunk (its first step, if ranks show signs of life): ten times what it would take
        at the slowest step's pace so far.
        """
        if self._step_seconds == 0.0:
            return self._slot.config.patience
        steps = -(-(until - done) // self.job.train_config.batch_size)
        return self._slot.config.hang_seconds + 10.0 * steps * self._step_seconds
