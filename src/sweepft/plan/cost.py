"""Time of one trial, of all trials, and after early stopping; disk space of the run folder.

Times are either measured on this machine or computed from 6 FLOPs per parameter and token at a given share of the
hardware's peak. The savings of early stopping are the range that the rule reached on recorded public curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweepft.ledger import affordable_rungs
from sweepft.plan.cluster import Cluster, Placement
from sweepft.plan.measure import Measured
from sweepft.plan.memory import checkpoint_bytes
from sweepft.plan.model_shape import ModelShape
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import TrialShape, largest_lora_rank, whole_modules
from sweepft.spec import SweepSpec, is_hub_id

SAVED: Final[Mapping[str, tuple[float, float]]] = {
    "none": (0.0, 0.0),
    "calibrated": (0.15, 0.44),
    "median": (0.45, 0.63),
    "recipe": (0.36, 0.55),
    "asha": (0.66, 0.78),
}
"""Lowest and highest share of compute saved by each rule over kinds of recorded curves, in sweeps of about 20 runs on
four slots. Sources: benchmarks/results/stopping.md, and calibration.md for ``calibrated``; tests compare them."""

_STEP_BYTES = 150  # of one step in the ledger, measured on demo runs


@dataclass(frozen=True)
class Cost:
    """Time of the sweep.

    Attributes:
        unit: Unit of the hours: ``GPU``, or ``slot`` for trials on CPUs.
        trial_seconds: Wall-clock seconds of one complete trial, mean over batch sizes.
        replicate_hours: Unit-hours of ``evaluate.replicates``, which no other figure includes.
        unit_hours: Unit-hours of all trials trained to completion.
        hours: Wall-clock hours of the same with the slots that fit; None if none fits.
        saved: Lowest and highest share assumed to be saved by early stopping.
        trials_in_limit: Complete trials within ``search.limit``; None without a limit.
        objective: What tasks take that trials are measured on; None without any.
        basis: Source of the seconds, in words.
    """

    unit: str
    trial_seconds: float
    replicate_hours: float
    unit_hours: float
    hours: float | None
    saved: tuple[float, float]
    trials_in_limit: int | None
    basis: str
    objective: ObjectiveCost | None = None

    def after_stopping(self, hours: float) -> tuple[float, float]:
        """Lowest and highest number of hours that remain of ``hours`` with early stopping."""
        least, most = self.saved
        return hours * (1 - most), hours * (1 - least)


@dataclass(frozen=True)
class ObjectiveCost:
    """What the tasks take that trials are measured on, that of the objective and others.

    Attributes:
        seconds: Of one measurement of all of them, on the base model; None where it was not measured.
        rungs: Rungs and ends of epochs at which they are measured beside the end, as far as they are known to be
            affordable.
        share: Of a trial's time; at most, where it was not measured.
    """

    seconds: float | None
    rungs: tuple[float, ...]
    share: float


def objective_cost(
    spec: SweepSpec, seconds: float, measured: float | None, points: tuple[float, ...]
) -> ObjectiveCost | None:
    """What tasks take in a trial; None without any.

    Args:
        spec: The sweep.
        seconds: Of a trial without them.
        measured: Seconds of one measurement of all of them; None where it is not known.
        points: Where trials are evaluated before their end: rungs and ends of epochs (`SweepSpec.evaluation_points`).
    """
    if not spec.objective.measured:
        return None
    if measured is None:
        return ObjectiveCost(None, points, spec.objective.max_share)
    kept = affordable_rungs(points, measured, seconds, spec.objective.max_share)
    taken = (len(kept) + 1) * measured
    return ObjectiveCost(measured, kept, taken / (taken + seconds))


def estimated_cost(
    spec: SweepSpec,
    shape: ModelShape,
    rows: RowCount,
    budget: int,
    placement: Placement,
    trials: int | None,
    *,
    peak_tflops: float,
    mfu: float,
) -> Cost:
    """Time from the FLOPs of a sweep on GPUs.

    Args:
        spec: The sweep.
        shape: Size of the model.
        rows: Size of the data.
        budget: Samples per trial.
        placement: Placement on the cluster.
        trials: Number of trials; None if only ``search.limit`` bounds it.
        peak_tflops: Peak of one GPU in the training precision, in 1e12 FLOP/s.
        mfu: Model FLOPs utilisation: fraction of the peak reached in training.
    """
    # forward 2, gradients of activations 2, gradients of weights 2 (none with adapters), recomputed forward 2
    factor = 6 - 2 * (largest_lora_rank(spec) > 0) + 2 * spec.train.gradient_checkpointing
    # scores and weighted values of attention: half of a row lies before a token, on average
    per_token = shape.parameters + shape.layers * shape.attention * rows.tokens
    train = factor * per_token * budget * rows.tokens
    points = spec.evaluation_points(budget, rows.train)
    times = len(points) + 1
    validation = 2 * per_token * (rows.validation or 0) * rows.tokens * times
    seconds = (train + validation) / (placement.units_per_trial * peak_tflops * 1e12 * mfu)
    basis = f"{factor} x parameters x tokens at {mfu:.0%} of {peak_tflops:g} TFLOP/s per GPU"
    return _cost(spec, seconds, 0.0, placement, trials, basis, None, points)


def measured_cost(
    spec: SweepSpec,
    trial_shapes: tuple[TrialShape, ...],
    found: Measured,
    placement: Placement,
    trials: int | None,
    points: tuple[float, ...],
) -> Cost:
    """Time from steps measured on this machine, as the plain mean over batch sizes; each trial is evaluated at these
    points and at its end.
    """
    times = len(points) + 1
    each = [
        found.switch_seconds
        + trial.steps * found.step_seconds[trial.batch_size]
        + times * found.evaluate_seconds
        for trial in trial_shapes
    ]
    basis = f"{found.steps} optimizer steps per batch size, measured here"
    if found.slots > 1:
        basis += f" with {found.slots} slots running"
    seconds = sum(each) / len(each)
    return _cost(
        spec, seconds, found.start_seconds, placement, trials, basis, found.objective_seconds, points
    )


def _cost(
    spec: SweepSpec,
    seconds: float,
    start: float,
    placement: Placement,
    trials: int | None,
    basis: str,
    measured: float | None,
    points: tuple[float, ...],
) -> Cost:
    objective = objective_cost(spec, seconds, measured, points)
    if objective is not None and objective.share < 1:
        seconds /= 1 - objective.share  # of the whole trial
    gpu = spec.resources.gpus_per_worker > 0
    held = placement.units_per_trial if gpu else 1.0
    room = _in_limit(spec, seconds * held, seconds, placement)
    count = room if trials is None else trials
    waves = math.ceil((count or 0) / placement.slots) if placement.slots else 0
    return Cost(
        unit="GPU" if gpu else "slot",
        trial_seconds=seconds,
        replicate_hours=replicate_count(spec) * seconds * held / 3600,
        unit_hours=((count or 0) * seconds + min(placement.slots, count or 0) * start) * held / 3600,
        hours=(waves * seconds + start) / 3600 if placement.slots else None,
        saved=SAVED[spec.early_stop.rule],
        trials_in_limit=room,
        basis=basis,
        objective=objective,
    )


def replicate_count(spec: SweepSpec) -> int:
    """Number of trials trained after the search as replicates."""
    replicates = spec.evaluate.replicates if spec.evaluate is not None else None
    if replicates is None:
        return 0
    return (replicates.top + (spec.baseline_finalist is not None)) * replicates.seeds


def _in_limit(spec: SweepSpec, unit_seconds: float, seconds: float, placement: Placement) -> int | None:
    limit = spec.search.limit
    if limit is None:
        return None
    room = []
    if limit.gpu_hours is not None:
        room.append(math.ceil(limit.gpu_hours * 3600 / unit_seconds))
    if limit.hours is not None:
        room.append(math.ceil(limit.hours * 3600 / seconds) * placement.slots)
    return min(room)


@dataclass(frozen=True)
class DiskUse:
    """Disk space of one kind.

    Attributes:
        what: Description.
        size: Bytes.
        stays: Whether the files remain after the sweep.
    """

    what: str
    size: int
    stays: bool


def disk_uses(
    spec: SweepSpec,
    shape: ModelShape | None,
    rows: RowCount,
    trial_shapes: tuple[TrialShape, ...],
    placement: Placement,
    cluster: Cluster,
    trials: int,
) -> tuple[DiskUse, ...]:
    """Disk space by kind, largest first; without weights if the model's size is unknown.

    A new version of a file is complete before the old one is removed, so one more of each is counted.
    """
    uses = []
    if rows.train is not None:
        wide = shape is None or shape.vocab > 2**16
        per_token = (4 if wide else 2) + 1
        samples = rows.train + (rows.validation or 0)
        uses.append(DiskUse("tokenised data", round(samples * (rows.tokens * per_token + 20)), stays=True))
    steps = sum(trial.steps for trial in trial_shapes) / len(trial_shapes)
    uses.append(DiskUse("ledger", round(trials * steps * _STEP_BYTES), stays=True))
    if shape is not None:
        p, weight = shape.parameters, 2 if spec.train.precision == "bf16" else 4
        kept = spec.kept.top + spec.kept.random
        if kept:
            uses.append(
                DiskUse(
                    f"weights of the best trials ({kept} + 1 being written)", (kept + 1) * weight * p, True
                )
            )
        nodes = f", on each of {cluster.nodes} nodes" if cluster.nodes > 1 else ""
        uses.append(DiskUse(f"base weights for resets{nodes}", weight * p, stays=False))
        if spec.checkpoint != "none":
            # the old checkpoint remains until the new one is complete
            each = checkpoint_bytes(shape, largest_lora_rank(spec), whole_modules(spec))
            states = 2 * each * max(1, placement.slots)
            uses.append(DiskUse("checkpoints of running trials (old and new)", states, stays=False))
        if is_hub_id(spec.model.path) and not Path(spec.model.path).exists():
            uses.append(DiskUse("model in the hub's cache (16-bit files)", 2 * p, stays=True))
    return tuple(sorted(uses, key=lambda use: -use.size))
