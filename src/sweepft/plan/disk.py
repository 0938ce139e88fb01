"""Disk: what stands in the run folder at its fullest, and what the hub's cache takes.

One idea: files are written whole under another name before an old one is removed, so one more of each counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweepft.plan.cluster import Cluster, Placement
from sweepft.plan.memory import trained_parameters
from sweepft.plan.model_shape import ModelShape
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import TrialShape, largest_lora_rank
from sweepft.spec import SweepSpec, is_hub_id

_STEP_BYTES = 150  # of a step in the ledger, measured on runs of the demo


@dataclass(frozen=True)
class DiskUse:
    """Bytes of one kind.

    Attributes:
        what: For people.
        size: Bytes.
        stays: Whether they are still there when the sweep has ended.
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
    """What takes room, largest first; weights are left out when the model's size is not known."""
    uses = []
    if rows.train is not None:
        wide = shape is None or shape.vocab > 2**16
        per_token = (4 if wide else 2) + 1
        samples = rows.train + (rows.validation or 0)
        uses.append(DiskUse("tokenised data", round(samples * (rows.tokens * per_token + 20)), stays=True))
    steps = sum(shape_of_trial.steps for shape_of_trial in trial_shapes) / len(trial_shapes)
    uses.append(DiskUse("ledger", round(trials * steps * _STEP_BYTES), stays=True))
    if shape is not None:
        p, weight = shape.parameters, 2 if spec.train.precision == "bf16" else 4
        kept = spec.kept.top + spec.kept.random
        if kept:
            uses.append(
                DiskUse(f"weights of the best ({kept} + 1 being written)", (kept + 1) * weight * p, True)
            )
        nodes = f", on each of {cluster.nodes} nodes" if cluster.nodes > 1 else ""
        uses.append(DiskUse(f"base weights for resets{nodes}", weight * p, stays=False))
        if spec.checkpoint != "none":
            # fp32 masters and two moments; the state before stands until the new one is complete
            states = 2 * 12 * trained_parameters(shape, largest_lora_rank(spec)) * max(1, placement.slots)
            uses.append(DiskUse("states of running trials (old and new)", states, stays=False))
        if is_hub_id(spec.model.path) and not Path(spec.model.path).exists():
            uses.append(DiskUse("the model in the hub's cache (16-bit files)", 2 * p, stays=True))
    return tuple(sorted(uses, key=lambda use: -use.size))
