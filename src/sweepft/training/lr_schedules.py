"""Learning-rate schedules as pure functions of the optimizer step.

The same curves as ``transformers.get_scheduler`` where it has them (compared in a test), so that a schedule found by a
sweep means the same in a ``transformers.Trainer``: the multiplier of step ``t`` is what a LambdaLR would use for its
``t``-th ``optimizer.step()``, so warmup starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from sweepft.spec import TrainConfig


def _warmup(step: int, warmup: int) -> float:
    return step / max(1, warmup)


def _progress(step: int, warmup: int, total: int) -> float:
    return min(1.0, (step - warmup) / max(1, total - warmup))


def _constant(step: int, warmup: int, total: int, floor: float, decay: float, power: float) -> float:
    return 1.0


def _linear(step: int, warmup: int, total: int, floor: float, decay: float, power: float) -> float:
    return floor + (1.0 - floor) * (1.0 - _progress(step, warmup, total))


def _cosine(step: int, warmup: int, total: int, floor: float, decay: float, power: float) -> float:
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * _progress(step, warmup, total)))


def _wsd(step: int, warmup: int, total: int, floor: float, decay: float, power: float) -> float:
    decay_steps = min(math.ceil(decay * total), total - warmup)
    start = total - decay_steps
    if step < start:
        return 1.0
    progress = (step - start) / max(1, decay_steps)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _inverse_sqrt(step: int, warmup: int, total: int, floor: float, decay: float, power: float) -> float:
    timescale = warmup or 10_000
    shift = timescale - warmup
    return 1.0 / math.sqrt((step + shift) / timescale)


def _polynomial(step: int, warmup: int, total: int, floor: float, decay: float, power: float) -> float:
    return floor + (1.0 - floor) * math.pow(1.0 - _progress(step, warmup, total), power)


SCHEDULES: Final[dict[str, Callable[[int, int, int, float, float, float], float]]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _wsd,
    "inverse_sqrt": _inverse_sqrt,
    "polynomial": _polynomial,
}


def lr_at(step: int, train_config: TrainConfig) -> float:
    """Learning rate of one optimizer step.

    Args:
        step: Optimizer step, 0-based, ``0 <= step < train_config.planned_steps``.
        train_config: Of the trial. Warmup rises linearly from zero; ``wsd`` decays along a half cosine over the last
            ``decay_fraction`` of the planned steps.
    Returns:
        The rate, >= 0.
    """
    warmup = train_config.warmup_steps
    if step < warmup:
        return train_config.learning_rate * _warmup(step, warmup)
    shape = SCHEDULES[train_config.schedule]
    return train_config.learning_rate * shape(
        step,
        warmup,
        train_config.planned_steps,
        train_config.min_lr_ratio,
        train_config.decay_fraction,
        train_config.power,
    )
