"""A slot: the coordinator of one group of ranks, as a class trainable.

It holds no torch and a sliver of CPU. Tune hands it trial after trial (``reuse_actors=True``); its ranks stay
alive between them, and one engine serves them all.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from sweepft.engine.plan import EnginePlan, TrialPlan
from sweepft.errors import RankFailed, RankHung
from sweepft.trainable.points import ReportPoint, report_points
from sweepft.workers.group import WorkerGroup, WorkerShape

__all__ = ["Slot", "SlotPlan"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotPlan:
    """What a slot needs beside the trial's own config.

    Attributes:
        engine: What all trials share.
        shape: The slot's ranks.
        log_dir: Folder for the ranks' log files.
        max_rebuilds: How often a trial's ranks are rebuilt before the trial is given back to Tune as failed.
        patience: Longest wait for anything not measured yet, in seconds (model load, a trial's first steps).
    """

    engine: EnginePlan
    shape: WorkerShape
    log_dir: str
    max_rebuilds: int = 2
    patience: float = 3600.0


class Slot(tune.Trainable):
    """One slot.

    Its config holds ``trial_id``, ``settings`` (the effective train section) and, for a trial that goes on after an
    interruption, ``reported_samples``.
    """

    def setup(self, config: dict[str, Any], plan: SlotPlan) -> None:
        """Take the slot; ranks start with the first step, so that a failure there is the trial's and not fatal."""
        self._plan = plan
        self._since = time.monotonic()
        self._group: WorkerGroup | None = None
        self._name = f"{ray.util.get_node_ip_address().replace('.', '-')}-{os.getpid()}"
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; the ranks live on."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report point and report every step on the way there."""
        while True:
            try:
                return self._advance()
            except (RankFailed, RankHung) as error:
                self._close_ranks()
                self._faults.append(
                    {
                        "error": type(error).__name__,
                        "message": str(error),
                        "lost_seconds": time.monotonic() - self._since,
                    }
                )
                if len(self._faults) > self._plan.max_rebuilds:
                    raise
                _log.warning("ranks rebuilt: trial=%s %s", self._trial.trial_id, error)
                self._begun = False

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept here: the ledger is the truth."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """A trial that comes back starts again from the base weights."""

    def cleanup(self) -> None:
        """End the ranks."""
        self._close_ranks()

    def _take(self, config: dict[str, Any]) -> None:
        engine = self._plan.engine
        self._trial = TrialPlan.from_settings(config["trial_id"], config["settings"], engine.budget_samples)
        self._points = report_points(engine.budget_samples, engine.windows, self._trial.batch_size)
        reported = config.get("reported_samples", 0)
        self._next = sum(point.samples <= reported for point in self._points)
        self._begun = False
        self._started: dict[str, Any] = {}
        self._faults: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._step_seconds = 0.0
        self._since = time.monotonic()

    def _advance(self) -> dict[str, Any]:
        if not self._begun:
            self._begin()
        assert self._group is not None
        point = self._points[self._next]
        chunk = self._group.run(point.samples, self._timeout(point))
        self._spend("train", chunk["seconds"])
        self._step_seconds = max(self._step_seconds, *chunk["history"]["seconds"])
        result = self._result(point, chunk)
        if chunk["diverged"] is None and point.window is not None:
            held_out = self._group.evaluate(self._plan.patience)
            self._spend("evaluate", held_out["seconds"])
            result |= {
                "eval_loss": held_out["objective"],
                "eval_sets": held_out["sets"],
                "window": point.window,
            }
            result["eval_seconds"] = held_out["seconds"]
        self._next += 1
        result["done"] = chunk["diverged"] is not None or self._next == len(self._points)
        now = time.monotonic()
        self._spend("other", max(0.0, now - self._since - sum(self._seconds.values())))
        result["phase_seconds"], self._seconds, self._since = dict(self._seconds), {}, now
        return result

    def _begin(self) -> None:
        """Start the trial from its base weights; after a fault or a resume, train silently to where it had reported."""
        begin = time.monotonic()
        if self._group is None:
            placement = ray.util.get_current_placement_group()
            prefix = str(Path(self._plan.log_dir) / f"slot-{self._name}")
            self._group = WorkerGroup(self._plan.engine, self._plan.shape, placement, prefix)
        self._started = self._group.start(self._trial, self._plan.patience)
        self._started["switch_seconds"] = time.monotonic() - begin
        self._started["nodes"] = sorted({p["host"] for p in self._group.places})
        self._spend("switch", self._started["switch_seconds"])
        self._started["from_step"] = 0
        self._begun = True
        if self._next > 0:
            again = self._group.run(self._points[self._next - 1].samples, self._plan.patience)
            self._started["from_step"] = again["history"]["step"][-1]
            self._spend("lost", again["seconds"])

    def _result(self, point: ReportPoint, chunk: dict[str, Any]) -> dict[str, Any]:
        history = chunk["history"]
        result: dict[str, Any] = {name: values[-1] for name, values in history.items() if name != "seconds"}
        result |= {
            "history": history,
            "blocks": chunk["blocks"],
            "data_order": self._started["data_order"],
            "warmup_steps": self._trial.warmup_steps,
            "planned_steps": self._trial.planned_steps,
            "budget_samples": self._plan.engine.budget_samples,
            "slot": self._name,
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
        steps = -(-(point.samples - done) // self._trial.batch_size)
        return 60.0 + 10.0 * steps * self._step_seconds

    def _spend(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def _close_ranks(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
