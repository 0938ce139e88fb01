"""What a slot keeps from job to job: its ranks, its configuration, and the account of its time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import ray

from sweepft.errors import SlotLost
from sweepft.evaluation.tasks import smaller_batch
from sweepft.slot.checkpoints import CheckpointPolicy
from sweepft.slot.group import WorkerGroup, WorkerShape, gpus_of, nodes_of
from sweepft.slot.jobs import ObjectiveTask
from sweepft.slot.room import Gpu
from sweepft.slot.weight_retention import KeepPolicy
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig

RANKS_REBUILT: Final = "ranks rebuilt"
"""Action of a fault after which new ranks continued the trial."""

WENT_ON: Final = "went on without"
"""Action of a checkpoint that could not be written; the ranks were not affected."""

SLOWER: Final = "runs more slowly"
"""Action of ranks that have fewer CPUs than they hold."""

PLAIN_KERNELS: Final = "runs without Liger's kernels"
"""Action of ranks that have tried Liger's kernels and given them up."""

NOTED: Final = (WENT_ON, SLOWER, PLAIN_KERNELS)
"""Actions that restart nothing."""

_LEAST_STALL_SECONDS: Final = 3.0
"""Assumed for what training waits for a checkpoint, at least, until one has been written."""

TASK_PATIENCE: Final = 24.0
"""Times the slot's patience for one task or test set: a large benchmark runs for hours without a sign of life."""

_SPARE_SECONDS: Final = 120
"""How long a slot that lost a node waits for another one. A slot that never started waits without limit."""


@dataclass(frozen=True)
class SlotConfig:
    """What a slot needs beside its jobs.

    Attributes:
        engine: What all trials share.
        shape: The slot's ranks.
        log_dir: Folder for the ranks' log files.
        keep: Which trials' weights to keep.
        checkpoints: When trials are checkpointed, and where.
        at_best: Whether a trial's value and weights are those of its best evaluation, not of its end.
        max_faults: How often a trial is restarted, by new ranks or on another slot, before it has failed.
        hang_seconds: How long a rank may be silent beyond ten times the usual pace.
        patience: Longest wait in seconds for anything not measured yet (model load, a trial's first steps).
        objective: The task that trials are judged by; None for the validation loss.
        measured: Further tasks that trials are measured on.
        judge_key: The driver's key for the judge of MT-Bench; it never goes to disk.
    """

    engine: EngineConfig
    shape: WorkerShape
    log_dir: str
    keep: KeepPolicy
    checkpoints: CheckpointPolicy
    at_best: bool = False
    max_faults: int = 2
    hang_seconds: float = 60.0
    patience: float = 3600.0
    objective: ObjectiveTask | None = None
    measured: tuple[ObjectiveTask, ...] = ()
    judge_key: str | None = field(default=None, repr=False)


class PhaseClock:
    """Wall seconds by phase since the last result."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def restart(self) -> None:
        """Start from zero: a job is taken."""
        self._seconds, self._since = {}, time.monotonic()

    def spend(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def close(self) -> dict[str, float]:
        """The phases since the last result, with the rest as ``other``; a result is made now."""
        now = time.monotonic()
        self.spend("other", max(0.0, now - self._since - sum(self._seconds.values())))
        seconds, self._seconds, self._since = self._seconds, {}, now
        return seconds

    def lose(self) -> float:
        """Count all time since the last result as lost. Returns the seconds that were not counted so before."""
        spent = time.monotonic() - self._since
        new = spent - self._seconds.get("lost", 0.0)
        self._seconds = {"lost": spent}
        return new

    @property
    def seconds(self) -> dict[str, float]:
        """The phases so far, without the rest."""
        return dict(self._seconds)


class SlotState:
    """A slot's ranks, configuration and clock.

    Args:
        config: As given to the slot; its micro-batch changes when memory runs out, for all later jobs.

    Attributes:
        name: Of the slot.
        clock: Since the last result.
        checkpoint_seconds: How long training waited for the last checkpoint, ``stalled``, and how long it was written
            behind it, ``written``; estimates until then, None before it matters.
        nodes: Ray's ids of the nodes of its ranks; empty before the first ones.
    """

    def __init__(self, config: SlotConfig) -> None:
        self.config = config
        self.name = f"{ray.util.get_node_ip_address().replace('.', '-')}-{os.getpid()}"
        self.clock = PhaseClock()
        self.checkpoint_seconds: dict[str, float] | None = None
        self.nodes: tuple[str, ...] = ()
        self._group: WorkerGroup | None = None

    @property
    def group(self) -> WorkerGroup:
        """The living ranks."""
        assert self._group is not None
        return self._group

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs of the living ranks."""
        return [gpu for place in self.group.places for gpu in gpus_of(place)]

    def start(self, train_config: TrainConfig) -> dict[str, Any]:
        """Start a trial from the base weights, on new ranks where none live.

        Returns:
            ``warm``, ``data_order``, ``phase_starts``, ``switch_seconds``, ``nodes``, ``from_step``, and None or why:
            ``narrow``, new ranks have fewer CPUs than they hold; ``plain_kernels``, they have given Liger's kernels up.
        """
        begin, patience = time.monotonic(), self.config.patience
        narrow = None
        if self._group is None:
            self._group = self._new_group()
            narrow = self._group.narrow
        started = self._group.start(train_config, patience)
        if self.config.engine.micro_batch == 0:
            self.set_micro_batch(self._group.find_max_micro_batch(patience))
            known = {"plain_kernels": started["plain_kernels"]}
            started = self._group.start(train_config, patience) | known
        started["switch_seconds"] = time.monotonic() - begin
        started["nodes"] = sorted({p["host"] for p in self._group.places})
        started["from_step"] = 0
        started["narrow"] = narrow
        self.clock.spend("switch", started["switch_seconds"])
        return started

    def expected_checkpoint_seconds(self, folder: str) -> dict[str, float]:
        """`checkpoint_seconds`, estimated where there was no checkpoint yet.

        Args:
            folder: Of a trial's checkpoints.
        """
        if self.checkpoint_seconds is None:
            found = self.group.estimate_checkpoint(folder, self.config.patience)
            self.checkpoint_seconds = found | {"stalled": max(_LEAST_STALL_SECONDS, found["stalled"])}
        return self.checkpoint_seconds

    def set_micro_batch(self, rows: int) -> None:
        """Use another micro-batch for this and all later jobs; new ranks start with it."""
        self.config = replace(self.config, engine=replace(self.config.engine, micro_batch=rows))

    def halve_task_batch(self, name: str) -> str | None:
        """Lower the batch size of a task that trials are measured on after it ran out of memory; what was done, None at
        one item.

        Args:
            name: Of the task.
        """
        every = [*self.config.measured, *([] if self.config.objective is None else [self.config.objective])]
        wanted = next(one for one in every if one.task.name == name)
        size = smaller_batch(wanted.task.batch_size)
        if size is None:
            return None
        smaller = replace(wanted, task=replace(wanted.task, batch_size=size))
        others = tuple(smaller if one is wanted else one for one in self.config.measured)
        objective = smaller if self.config.objective is wanted else self.config.objective
        self.config = replace(self.config, objective=objective, measured=others)
        return f"{wanted.task.place.removesuffix('.task')}.batch_size {wanted.task.batch_size or 'auto'} -> {size}"

    def close_ranks(self) -> None:
        """End the ranks, if there are any."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _new_group(self) -> WorkerGroup:
        placement = ray.util.get_current_placement_group()
        if not placement.wait(_SPARE_SECONDS):  # one of its nodes is gone, and no other one has room
            raise SlotLost(f"no node has had room for all ranks of the slot for {_SPARE_SECONDS} s")
        self.nodes = tuple(dict.fromkeys(nodes_of(placement)))
        prefix = str(Path(self.config.log_dir) / f"slot-{self.name}")
        return WorkerGroup(self.config.engine, self.config.shape, placement, prefix)
