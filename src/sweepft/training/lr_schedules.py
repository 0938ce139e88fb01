"""Learning-rate schedules as pure functions of the optimizer step.

The same curves as ``transformers.get_scheduler`` where it has them (a test compares them), so that
a setting found by a sweep means the same in a ``transformers.Trainer``: the multiplier of step ``t``
is what a LambdaLR would use for its ``t``-th ``optimizer.step()``, warmup therefore starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final


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


def lr_at(
    step: int,
    *,
    schedule: str,
    learning_rate: float,
    warmup_steps: int,
    planned_steps: int,
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
    power: float = 2.0,
) -> float:
    """Learning rate of one optimizer step.

    Args:
        step: Optimizer step, 0-based, ``0 <= step < planned_steps``.
        schedule: A key of SCHEDULES. ``wsd`` decays along a half cosine over the last
            ``decay_fraction`` of the planned steps.
        learning_rate: Peak rate.
        warmup_steps: Steps of linear warmup from zero.
        planned_steps: Steps of the whole trial.
        min_lr_ratio: Floor of the decaying schedules, as a share of the peak.
        decay_fraction: Share of the planned steps over which ``wsd`` decays.
        power: Exponent of ``polynomial``.
    Returns:
        The rate, >= 0.
    Raises:
        ValueError: If the schedule is unknown.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: use one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return learning_rate * _warmup(step, warmup_steps)
    shape = SCHEDULES[schedule]
    return learning_rate * shape(step, warmup_steps, planned_steps, min_lr_ratio, decay_fraction, power)
