"""What it takes to score the finalists: time from FLOPs, reads of the weights and generated tokens; memory of a rank.

Sizes of tasks are those of the harness, prompts in rounded mean tokens. Answers count with all tokens that they may
have: a batch ends with its longest answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from sweepft.evaluation.tasks import LARGEST_BATCH, batch_size_of
from sweepft.plan.cluster import Placement
from sweepft.plan.cost import replicate_count
from sweepft.plan.fastest import Rates
from sweepft.plan.memory import RankMemory, base_bytes
from sweepft.plan.model_shape import ModelShape
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import is_quantized
from sweepft.spec import Evaluate, HarnessTask, SweepSpec

BLOCK_SECONDS: Final = 0.8e-3
"""Least time of a block for one generated token: transformers launches some thirty kernels for it from Python."""

_TO_GATHER: Final = 2.2
"""Free memory as a multiple of the whole weights for which ZeRO-3 gathers them once (see
``sweepft.training.inference``).
"""

_MT_BENCH_ANSWERS: Final = 160  # 80 questions of two turns
_MT_BENCH_PROMPT: Final = 300


class TaskSize(NamedTuple):
    """A task of the harness.

    Attributes:
        items: Of all its parts.
        parts: Tasks of a group; a limit holds for each.
        question: Tokens of an item without examples.
        example: Tokens of one few-shot example.
        shots: Examples by default.
        passes: Forward passes of an item; 0 if it is generated.
        generated: Most tokens of an answer.
    """

    items: int
    parts: int
    question: int
    example: int
    shots: int
    passes: int
    generated: int = 0


TASKS: Final[Mapping[str, TaskSize]] = {
    "arc_challenge": TaskSize(1172, 1, 40, 40, 0, 4),
    "arc_easy": TaskSize(2376, 1, 35, 35, 0, 4),
    "boolq": TaskSize(3270, 1, 150, 150, 0, 2),
    "gsm8k": TaskSize(1319, 1, 60, 170, 5, 0, 256),
    "gsm8k_cot": TaskSize(1319, 1, 60, 110, 8, 0, 256),
    "hellaswag": TaskSize(10_042, 1, 100, 100, 0, 4),
    "humaneval": TaskSize(164, 1, 180, 250, 0, 0, 1024),
    "ifeval": TaskSize(541, 1, 60, 60, 0, 0, 1280),
    "leaderboard_bbh": TaskSize(5761, 24, 120, 130, 3, 5),
    "leaderboard_gpqa": TaskSize(1192, 3, 250, 250, 0, 4),
    "leaderboard_ifeval": TaskSize(541, 1, 60, 60, 0, 0, 1280),
    "leaderboard_math_hard": TaskSize(1324, 7, 90, 150, 4, 0, 1024),
    "leaderboard_mmlu_pro": TaskSize(12_032, 1, 200, 200, 5, 1),
    "leaderboard_musr": TaskSize(756, 3, 1100, 1100, 0, 3),
    "mmlu": TaskSize(14_042, 57, 110, 110, 0, 1),
    "piqa": TaskSize(1838, 1, 40, 40, 0, 2),
    "truthfulqa_mc2": TaskSize(817, 1, 350, 350, 0, 7),
    "winogrande": TaskSize(1267, 1, 30, 30, 0, 2),
}
"""Tasks by name. Choices of one token are read in one pass."""

_OTHER: Final = TaskSize(0, 1, 300, 150, 0, 0, 256)


@dataclass(frozen=True)
class Exams:
    """What the evaluation of the finalists takes, replicates' training not included.

    Attributes:
        models: Models that are scored, the base model and replicates among them.
        items: Items of each.
        tokens_read: Tokens of each that are read in forward passes.
        tokens_generated: Tokens of each that may be generated.
        shared: Whether each rank holds the whole weights, so that the ranks share the items.
        seconds: Of one model on one slot.
        unit_hours: GPU-hours of all models.
        hours: Wall-clock hours of the same; None if no slot fits.
        rank_bytes: Peak memory of a rank.
        unknown: Parts whose size is not known and not included.
    """

    models: int
    items: int
    tokens_read: int
    tokens_generated: int
    shared: bool
    seconds: float
    unit_hours: float
    hours: float | None
    rank_bytes: int
    unknown: tuple[str, ...]


class _Part(NamedTuple):
    """A task or test set of one model: items, tokens of each pass, passes of an item, generated tokens of an item."""

    items: int
    read: float
    passes: int
    generated: int


def exams_of(
    spec: SweepSpec,
    shape: ModelShape,
    rows: RowCount,
    memory: RankMemory,
    room: int,
    placement: Placement,
    rates: Rates,
    assumed: list[str],
) -> Exams | None:
    """The evaluation after the search; None without any.

    Args:
        spec: The sweep.
        shape: Of the model.
        rows: Of the data; test rows count as long as training rows.
        memory: Of a rank in training.
        room: Bytes that a rank has.
        placement: On the cluster.
        rates: Of a rank; its FLOPs as reached in training.
        assumed: Takes sentences about what is assumed.
    """
    if spec.evaluate is None:
        return None
    parts, unknown = _parts(spec, spec.evaluate, rows, assumed)
    if not parts and not unknown:
        return None
    ranks = spec.resources.workers_per_trial
    weight = 2 if spec.train.precision == "bf16" else 4
    lasting = memory.states + memory.buckets + memory.process
    whole = weight * shape.parameters
    shared = spec.train.zero_stage < 3 or ranks == 1 or room - lasting > _TO_GATHER * whole
    gather = 0.0 if shared else whole * (ranks - 1) / ranks / rates.link
    gathered = whole if shared and spec.train.zero_stage == 3 and ranks > 1 else 0
    batches = [(part, _batch(spec, shape, part, room - lasting - gathered, weight)) for part in parts]
    held = base_bytes(shape, spec.train.precision, is_quantized(spec))
    seconds = sum(
        _seconds(shape, part, ceil(part.items / ranks) if shared else part.items, batch, held, rates, gather)
        for part, batch in batches
    )
    models, slots = _models(spec, spec.evaluate), placement.slots
    return Exams(
        models=models,
        items=sum(part.items for part in parts),
        tokens_read=round(sum(part.items * part.read * (part.passes or 1) for part in parts)),
        tokens_generated=sum(part.items * part.generated for part in parts),
        shared=shared,
        seconds=seconds,
        unit_hours=models * seconds * placement.units_per_trial / 3600,
        hours=ceil(models / slots) * seconds / 3600 if slots else None,
        rank_bytes=lasting
        + gathered
        + max((_batch_bytes(shape, part, batch, weight) for part, batch in batches), default=0),
        unknown=tuple(unknown),
    )


def _models(spec: SweepSpec, evaluate: Evaluate) -> int:
    """The finalists with baseline and replicates, and the base model."""
    finalists = evaluate.finalists.top + evaluate.finalists.random + (spec.baseline_finalist is not None)
    return finalists + replicate_count(spec) + 1


def _parts(
    spec: SweepSpec, evaluate: Evaluate, rows: RowCount, assumed: list[str]
) -> tuple[list[_Part], list[str]]:
    """What each model is scored on, and the names of what has no known size."""
    parts, unknown = [], []
    for source in spec.data.test:
        if source.limit is None:
            unknown.append(source.name)
        else:
            parts.append(_Part(source.limit, rows.tokens, 1, 0))
    for task in evaluate.each_task():
        found = _task(task)
        if found is None:
            unknown.append(task.name)
        else:
            parts.append(found)
    guessed = [task.name for task in evaluate.each_task() if task.name not in TASKS and task.limit]
    if guessed:
        assumed.append(
            f"items of {', '.join(guessed)} have {_OTHER.question} tokens and answers of at most {_OTHER.generated}"
        )
    if evaluate.mt_bench is not None:
        assumed.append(f"MT-Bench has {_MT_BENCH_ANSWERS} answers; the judge's time is not included")
        parts.append(_Part(_MT_BENCH_ANSWERS, _MT_BENCH_PROMPT, 0, evaluate.mt_bench.max_new_tokens))
    if unknown:
        assumed.append(
            f"the sizes of {', '.join(unknown)} are unknown: scoring finalists on them is not included (limit)"
        )
    return parts, unknown


def _task(task: HarnessTask) -> _Part | None:
    """A task's size under its settings; None where it is not known."""
    size = TASKS.get(task.name, _OTHER)
    items = size.items
    if task.limit is not None:
        items = min(items or task.limit, task.limit * size.parts)
    if not items:
        return None
    shots = size.shots if task.num_fewshot is None else task.num_fewshot
    return _Part(items, size.question + shots * size.example, size.passes, size.generated)


def _batch(spec: SweepSpec, shape: ModelShape, part: _Part, free: int, weight: int) -> int:
    """Items per batch; with ``auto`` as many as half of the free memory holds (see
    ``sweepft.evaluation.batch_size``).
    """
    assert spec.evaluate is not None
    wanted = batch_size_of(spec.evaluate.batch_size)
    if wanted is not None:
        return wanted
    each, size = _batch_bytes(shape, part, 1, weight), 1
    while size < LARGEST_BATCH and 2 * (2 * size) * each <= free:
        size *= 2
    return size


def _seconds(
    shape: ModelShape, part: _Part, items: int, batch: int, held: int, rates: Rates, gather: float
) -> float:
    """Seconds in which a rank runs so many items of a part.

    Args:
        shape: Of the model.
        part: The part.
        items: That the rank runs.
        batch: Items per batch.
        held: Bytes of the weights that a pass reads.
        rates: Of the rank.
        gather: Seconds in which the weights are gathered for a pass; 0 where a rank holds them.
    """
    per_token = 2 * (shape.parameters + shape.layers * shape.attention * part.read)
    reads = part.passes or 1  # of an item; a prompt is read once
    passes = ceil(items * reads / batch)
    seconds = max(items * reads * part.read * per_token / rates.flops, passes * (held / rates.reads + gather))
    if part.generated:
        computing = 2 * shape.parameters * min(batch, items) / rates.flops
        token = max(computing, held / rates.reads, shape.layers * BLOCK_SECONDS, gather)
        seconds += ceil(items / batch) * part.generated * token
    return seconds


def _batch_bytes(shape: ModelShape, part: _Part, batch: int, weight: int) -> int:
    """Bytes of a batch: keys and values, or logits with their logarithms, and the activations of one block."""
    tokens = batch * (part.read + part.generated)
    block = batch * part.read * weight * (4 * shape.hidden + 3 * shape.intermediate)
    kept = 2 * shape.layers * shape.attention * weight * tokens if part.generated else 0
    logits = 0 if part.generated else 2 * weight * shape.vocab * batch * part.read
    return round(block + kept + logits)
