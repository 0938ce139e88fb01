"""Optimizer steps, warmup and rungs of a trial, for each batch size; and the size of the search space.

All trials have the same budget in samples, so the batch size determines the number of steps, the length of a fractional
warmup, and the rungs at which the early-stopping rule applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweepft.early_stopping import eligible, parse_rungs, rung_steps
from sweepft.spec import SweepSpec


@dataclass(frozen=True)
class TrialShape:
    """A trial with one batch size.

    Attributes:
        batch_size: Samples per optimizer step.
        micro_batches: Forward and backward passes per rank and step; None if ``micro_batch`` is not a number.
        steps: Optimizer steps.
        warmup: Minimum and maximum warmup steps that can be proposed.
        rung_steps: Rung name to the step that reaches it.
        judged: Names of the rungs at which the rule applies to every trial.
        judged_at_best: Names of the rungs at which it applies to trials with the shortest warmup.
    """

    batch_size: int
    micro_batches: int | None
    steps: int
    warmup: tuple[int, int]
    rung_steps: Mapping[str, int]
    judged: tuple[str, ...]
    judged_at_best: tuple[str, ...]


def trial_shapes(spec: SweepSpec, budget: int) -> tuple[TrialShape, ...]:
    """One shape per batch size; ``budget`` is in samples per trial."""
    return tuple(_trial_shape(spec, size, budget) for size in spec.batch_sizes)


def trial_count(spec: SweepSpec) -> int | None:
    """Maximum number of trials: ``search.trials`` or the size of the space; None if only ``search.limit`` bounds it."""
    wanted, size = spec.search.trials, spec.space_size
    if wanted is None:
        return size if spec.search.sampler == "grid" else None
    return wanted if size is None else min(wanted, size)


def largest_lora_rank(spec: SweepSpec) -> int:
    """The largest adapter rank that can be proposed; 0 if all weights are trained."""
    swept = spec.search.space.get("lora.rank")
    ranks = [int(value) for _, value in swept.examples()] if swept is not None else []
    fixed = spec.train.lora
    return max([*ranks, fixed.rank if fixed is not None else 0])


def widest_targets(spec: SweepSpec) -> tuple[str, ...] | None:
    """The most target modules of adapters that can be proposed; None for all linear layers."""
    found = [value for _, value in spec.search.candidates("lora.target_modules", None) if value is not None]
    if not found:
        found = [spec.train.lora.target_modules if spec.train.lora is not None else "all-linear"]
    lists = [tuple(value) for value in found if not isinstance(value, str)]
    return None if len(lists) < len(found) else max(lists, key=len)


def adapters_drop_out(spec: SweepSpec) -> bool:
    """Whether adapters with dropout can be proposed."""
    fixed = spec.train.lora.dropout if spec.train.lora is not None else 0.0
    return any((value or 0.0) > 0 for _, value in spec.search.candidates("lora.dropout", fixed))


def is_quantized(spec: SweepSpec) -> bool:
    """Whether adapters are trained on a base in 4 bits."""
    return spec.train.lora is not None and spec.train.lora.quantize is not None


def whole_modules(spec: SweepSpec) -> tuple[str, ...]:
    """Names of layers that are trained whole beside adapters."""
    return spec.train.lora.modules_to_save if spec.train.lora is not None else ()


def heaviest_optimizer(spec: SweepSpec) -> str:
    """The optimizer with the most memory per parameter among those that can be proposed."""
    swept = spec.search.space.get("optimizer.name")
    names = swept.choices if swept is not None else (spec.train.optimizer.name,)
    return next(name for name in ("adamw", "sgd", "adamw_8bit", "adafactor") if name in names)


def _trial_shape(spec: SweepSpec, size: int, budget: int) -> TrialShape:
    warmups = [_warmup_steps(spec, size, params, budget) for params in _warmups(spec)]
    rungs = rung_steps(parse_rungs(spec.early_stop.rungs), batch_size=size, budget=budget)

    def judged(warmup: int) -> tuple[str, ...]:
        least = spec.early_stop.min_steps
        return tuple(
            w.name for w, step in rungs.items() if eligible(step=step, min_steps=least, warmup_steps=warmup)
        )

    micro = spec.train.micro_batch
    per_pass = micro * spec.resources.workers_per_trial if isinstance(micro, int) else None
    return TrialShape(
        batch_size=size,
        micro_batches=None if per_pass is None else math.ceil(size / per_pass),
        steps=math.ceil(budget / size),
        warmup=(min(warmups), max(warmups)),
        rung_steps={rung.name: step for rung, step in rungs.items()},
        judged=judged(max(warmups)),
        judged_at_best=judged(min(warmups)),
    )


def _warmups(spec: SweepSpec) -> list[dict[str, Any]]:
    """Params with each choice or range end of a swept warmup; one empty mapping if it is fixed."""
    for key in ("warmup", "warmup.steps"):
        dimension = spec.search.space.get(key)
        if dimension is not None:
            return [{key: value} for _, value in dimension.examples()]
    return [{}]


def _warmup_steps(spec: SweepSpec, size: int, params: Mapping[str, Any], budget: int) -> int:
    rate = spec.train.learning_rate or 1.0
    return spec.train_config({"batch_size": size, "learning_rate": rate, **params}, budget).warmup_steps
