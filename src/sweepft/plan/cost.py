"""Time: what one trial takes, what all take to the end, and what early stopping may leave of that.

One idea: a figure is either measured on this machine or comes from 6 FLOPs a parameter and token at a stated share of
the hardware's peak; which of the two is said. The share that stopping saves is a range over public curves, not a
promise: it is what the rule saved there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sweepft.plan.cluster import Placement
from sweepft.plan.measure import Measured
from sweepft.plan.model_shape import ModelShape
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import TrialShape, largest_lora_rank
from sweepft.spec import SweepSpec

SAVED: Final[Mapping[str, tuple[float, float]]] = {
    "none": (0.0, 0.0),
    "calibrated": (0.41, 0.63),
    "median": (0.45, 0.63),
    "recipe": (0.36, 0.55),
    "asha": (0.66, 0.78),
}
"""Share of the compute each rule saved, least and most over three kinds of public curves, four slots (``calibrated``
with its 5% of audits): benchmarks/results/stopping.md, which a test compares."""


@dataclass(frozen=True)
class Cost:
    """What the sweep takes.

    Attributes:
        unit: ``GPU`` or, for trials on CPUs, ``slot``: what the hours are counted in.
        trial_seconds: Wall seconds of one trial to its end, mean over batch sizes.
        seed_hours: What ``evaluate.replicates`` trains again after them, to the end, in units; in no other figure.
        unit_hours: All trials to the end.
        hours: The same as wall-clock time with the slots that fit; None when none fits.
        saved: Least and most share that early stopping is taken to save.
        trials_in_limit: Trials to the end that ``search.limit`` has room for; None without a limit.
        basis: What the seconds rest on, for people.
    """

    unit: str
    trial_seconds: float
    seed_hours: float
    unit_hours: float
    hours: float | None
    saved: tuple[float, float]
    trials_in_limit: int | None
    basis: str

    def after_stopping(self, hours: float) -> tuple[float, float]:
        """Least and most of these hours that are left when trials are stopped early."""
        least, most = self.saved
        return hours * (1 - most), hours * (1 - least)


def estimated(
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
    """Time by the FLOP model.

    Args:
        spec: The sweep, on GPUs.
        shape: Of the model.
        rows: Of the data.
        budget: Samples of a trial.
        placement: On the cluster.
        trials: All of them; None when only a limit bounds them.
        peak_tflops: Of one GPU in the training precision, in 1e12 FLOP/s.
        mfu: Model FLOPs utilisation, the share of that peak that training reaches.
    """
    # forward 2, gradients of activations 2, of weights 2 (adapters spare these), a second forward pass 2
    factor = 6 - 2 * (largest_lora_rank(spec) > 0) + 2 * spec.train.gradient_checkpointing
    train = factor * shape.parameters * budget * rows.tokens
    times = len(spec.early_stop.rungs) + 1
    validation = 2 * shape.parameters * (rows.validation or 0) * rows.tokens * times
    seconds = (train + validation) / (placement.units_per_trial * peak_tflops * 1e12 * mfu)
    basis = f"{factor} x parameters x tokens at {mfu:.0%} of {peak_tflops:g} TFLOP/s a GPU"
    return _cost(spec, seconds, 0.0, placement, trials, basis)


def measured_cost(
    spec: SweepSpec,
    trial_shapes: tuple[TrialShape, ...],
    found: Measured,
    placement: Placement,
    trials: int | None,
) -> Cost:
    """Time by steps that were taken on this machine; batch sizes count alike."""
    times = len(spec.early_stop.rungs) + 1
    each = [
        found.switch_seconds
        + shape_of_trial.steps * found.step_seconds[shape_of_trial.batch_size]
        + times * found.evaluate_seconds
        for shape_of_trial in trial_shapes
    ]
    basis = f"{found.steps} optimizer steps a batch size, measured here"
    if found.slots > 1:
        basis += f" with {found.slots} slots at work"
    return _cost(spec, sum(each) / len(each), found.start_seconds, placement, trials, basis)


def _cost(
    spec: SweepSpec, seconds: float, start: float, placement: Placement, trials: int | None, basis: str
) -> Cost:
    gpu = spec.resources.gpus_per_worker > 0
    held = placement.units_per_trial if gpu else 1.0
    room = _in_limit(spec, seconds * held, seconds, placement)
    count = room if trials is None else trials
    waves = math.ceil((count or 0) / placement.slots) if placement.slots else 0
    return Cost(
        unit="GPU" if gpu else "slot",
        trial_seconds=seconds,
        seed_hours=fresh_seeds(spec) * seconds * held / 3600,
        unit_hours=((count or 0) * seconds + min(placement.slots, count or 0) * start) * held / 3600,
        hours=(waves * seconds + start) / 3600 if placement.slots else None,
        saved=SAVED[spec.early_stop.rule],
        trials_in_limit=room,
        basis=basis,
    )


def fresh_seeds(spec: SweepSpec) -> int:
    """Trials that follow the search, to confirm the best."""
    replicates = spec.evaluate.replicates if spec.evaluate is not None else None
    return 0 if replicates is None else replicates.top * replicates.seeds


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
