"""The fastest of the ways to take a sweep's steps that fit the memory: ZeRO stage, micro-batch, checkpointing.

The time of a way is that of its FLOPs, of reading the weights in each pass, of the optimizer, and of what the ranks
exchange as far as computing does not hide it. Only ratios are reported: the shares of the peaks that are reached differ
less between the ways of one sweep than between sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from sweepft.plan.memory import trained_parameters
from sweepft.plan.model_shape import ModelShape
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import heaviest_optimizer, largest_lora_rank, whole_modules
from sweepft.spec import MicroTokens, SweepSpec

FILLED: Final = 0.9
"""Share of a GPU that a way may fill, as for ``micro_batch: auto``."""

_LIKE: Final = 1.02
"""Ways within this factor of the fastest count as equally fast: the one nearest to the spec is taken."""
_MOST_TOKENS: Final = 65_536
_OPTIMIZER_BYTES: Final = 30  # read and written per parameter: gradient, master, two moments, the new weight
_BACKWARD: Final = 2 / 3  # of a pass, behind which gradients are reduced


@dataclass(frozen=True)
class Way:
    """How steps are taken.

    Attributes:
        zero_stage: ZeRO stage.
        micro_batch: Rows of a pass, or tokens where they are packed.
        gradient_checkpointing: Whether activations are recomputed.
    """

    zero_stage: int
    micro_batch: int
    gradient_checkpointing: bool


@dataclass(frozen=True)
class Rates:
    """What a rank does in a second.

    Attributes:
        flops: Reached in training.
        reads: Bytes from its memory.
        link: Bytes exchanged with the other ranks.
    """

    flops: float
    reads: float
    link: float


@dataclass(frozen=True)
class Job:
    """What all ways have in common.

    Attributes:
        shape: Of the model.
        trained: Parameters that are trained.
        weight: Bytes of a weight.
        ranks: Of a trial.
        batch_sizes: Of the sweep.
        tokens: Mean tokens of a row.
        longest: Tokens of the longest row.
        packed: Whether rows are packed.
        rates: Of a rank.
    """

    shape: ModelShape
    trained: int
    weight: int
    ranks: int
    batch_sizes: Sequence[int]
    tokens: float
    longest: int
    packed: bool
    rates: Rates


@dataclass(frozen=True)
class Fastest:
    """The fastest way that fits.

    Attributes:
        zero_stage, micro_batch, gradient_checkpointing: As in `Way`.
        times_as_fast: As the spec's own way, in training; 1.0 if it is that way.
        rank_bytes: Peak memory of a rank.
    """

    zero_stage: int
    micro_batch: int
    gradient_checkpointing: bool
    times_as_fast: float
    rank_bytes: int


def fastest_for(
    spec: SweepSpec,
    shape: ModelShape,
    rows: RowCount,
    micro_batch: int,
    rates: Rates,
    memory: Callable[[Way], int],
    room: int,
) -> Fastest | None:
    """The fastest way for a spec, among those that its other settings allow.

    Args:
        spec: The sweep.
        shape: Size of the model.
        rows: Size of the data.
        micro_batch: Of the spec; what was found for ``auto``.
        rates: Of a rank.
        memory: Bytes of a rank.
        room: Bytes that a rank has.
    """
    train = spec.train
    job = Job(
        shape=shape,
        trained=trained_parameters(shape, largest_lora_rank(spec), whole_modules(spec)),
        weight=2 if train.precision == "bf16" else 4,
        ranks=spec.resources.workers_per_trial,
        batch_sizes=spec.batch_sizes,
        tokens=rows.tokens,
        longest=rows.longest,
        packed=isinstance(train.micro_batch, MicroTokens),
        rates=rates,
    )
    own = Way(train.zero_stage, micro_batch, train.gradient_checkpointing)
    swept = "gradient_checkpointing" in spec.search.space
    return find_fastest(job, own, _stages(spec), memory, room, checkpointing=not swept)


def _stages(spec: SweepSpec) -> range:
    """ZeRO stages that the spec's precision, optimizer, adapters and compilation allow."""
    if heaviest_optimizer(spec) == "adafactor":
        return range(1)
    lora = spec.train.lora
    whole = lora is None or not (lora.quantize or lora.modules_to_save)
    last = 3 if whole and not spec.train.compile else 2
    return range(0 if spec.train.precision == "fp32" else 1, last + 1)


def find_fastest(
    job: Job,
    own: Way,
    stages: Sequence[int],
    memory: Callable[[Way], int],
    room: int,
    *,
    checkpointing: bool = True,
) -> Fastest | None:
    """The fastest way that fits; None if none does.

    Args:
        job: What the ways have in common.
        own: Of the spec.
        stages: ZeRO stages that the spec's other settings allow.
        memory: Bytes of a rank.
        room: Bytes that a rank has.
        checkpointing: Whether recomputing may be turned on or off.
    """
    ways = [own, *_ways(job, own, stages, checkpointing)]
    fitting = [way for way in ways if memory(way) <= (room if way == own else FILLED * room)]
    if not fitting:
        return None
    seconds = {way: sample_seconds(job, way) for way in fitting}
    least = min(seconds.values())

    def nearest(way: Way) -> tuple[int, int, float]:
        changes = sum(
            [
                way.zero_stage != own.zero_stage,
                way.micro_batch != own.micro_batch,
                way.gradient_checkpointing != own.gradient_checkpointing,
            ]
        )
        return changes, abs(way.zero_stage - own.zero_stage), seconds[way]

    best = min((way for way in fitting if seconds[way] <= _LIKE * least), key=nearest)
    return Fastest(
        zero_stage=best.zero_stage,
        micro_batch=best.micro_batch,
        gradient_checkpointing=best.gradient_checkpointing,
        times_as_fast=sample_seconds(job, own) / seconds[best],
        rank_bytes=memory(best),
    )


def sample_seconds(job: Job, way: Way) -> float:
    """Seconds of training a sample, mean over batch sizes."""
    return sum(_step_seconds(job, way, size) / size for size in job.batch_sizes) / len(job.batch_sizes)


def _step_seconds(job: Job, way: Way, batch_size: int) -> float:
    """Seconds of one optimizer step."""
    p, share = job.shape.parameters, (job.ranks - 1) / job.ranks
    rows = batch_size / job.ranks
    passes = ceil(rows * job.tokens / way.micro_batch if job.packed else rows / way.micro_batch)
    whole = job.trained == p
    forwards = (
        3 + way.gradient_checkpointing
    )  # passes over the weights, with that for gradients of activations
    factor = 2 * (forwards if whole else forwards - 1)
    per_token = p + job.shape.layers * job.shape.attention * job.tokens
    computing = factor * per_token * rows * job.tokens / job.rates.flops / passes
    computing += forwards * job.weight * p / job.rates.reads
    gathered, sent = (job.weight * n * share / job.rates.link for n in (p, job.trained))
    if way.zero_stage == 3:  # gathered for both halves of a pass, ahead of each layer; reduced once
        step = passes * max(computing, 2 * gathered + sent)
    else:
        reduced = 2 * sent  # an all_reduce
        behind = passes if way.zero_stage == 2 else 1
        step = passes * computing + behind * max(0.0, reduced - _BACKWARD * computing)
        step += sent if way.zero_stage else 0.0  # the new weights
    held = job.trained / (job.ranks if way.zero_stage else 1)
    return step + _OPTIMIZER_BYTES * held / job.rates.reads


def _ways(job: Job, own: Way, stages: Sequence[int], checkpointing: bool) -> Iterator[Way]:
    sizes = list(_packed_sizes(job) if job.packed else _row_sizes(job))
    kept = (False, True) if checkpointing else (own.gradient_checkpointing,)
    for stage in stages:
        for recomputed in kept:
            for size in dict.fromkeys([own.micro_batch, *sizes]):
                yield replace(own, zero_stage=stage, gradient_checkpointing=recomputed, micro_batch=size)


def _packed_sizes(job: Job) -> Iterator[int]:
    size = 1 << (job.longest - 1).bit_length()
    while size <= _MOST_TOKENS:
        yield size
        size *= 2


def _row_sizes(job: Job) -> Iterator[int]:
    """Rows of which each batch size is a multiple on all ranks, as a spec requires."""
    size = 1
    while size * job.ranks <= max(job.batch_sizes):
        if all(batch_size % (size * job.ranks) == 0 for batch_size in job.batch_sizes):
            yield size
        size *= 2
