"""Warn of learning rates that bf16 weights cannot follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sweepft.plan.trial_shapes import TrialShape
from sweepft.spec import SweepSpec

TYPICAL_WEIGHT: Final = 0.02
"""Root mean square of the matrices of language models with 1 to 8 billion parameters, in round numbers."""
LEAST_REACH: Final = 2.0
"""Above it, bf16 weights made all of the progress of fp32 ones in the measurements, at 1 nine tenths, at 0.5 half."""


def reach(rate: float, steps: int, weight: float = TYPICAL_WEIGHT) -> float:
    """How far a trial can move a weight, in distances between bf16 numbers.

    DeepSpeed steps fp32 master weights, and forward passes use their bf16 copies. bf16 has eight significant bits:
    numbers near w are |w| x 2^-8 to |w| x 2^-7 apart. The base weights are such numbers, and a copy stays what it was
    until its master is half a distance away. AdamW moves a weight by at most about the learning rate per step, so a
    trial moves it by at most rate x steps, and less where steps disagree or the schedule decays.

    ``benchmarks/bf16_rates.py`` measures what part of the progress of fp32 weights bf16 ones make; the figures
    are in docs/how-to/training.md.

    Args:
        rate: Peak learning rate.
        steps: Optimizer steps of the trial.
        weight: Typical magnitude of a weight.
    """
    return rate * steps / (weight * 2**-8)


def low_rate_warnings(spec: SweepSpec, trial_shapes: Sequence[TrialShape]) -> Iterator[str]:
    """A warning if the lowest rate of the space is too low for bf16 weights at some batch size.

    Not for adapters, which need rates that are ten to a hundred times higher, nor for SGD, whose steps depend on the
    size of gradients.
    """
    if spec.train.precision != "bf16" or spec.train.lora is not None or not _steps_like_adam(spec):
        return
    rate = _lowest_rate(spec)
    slow = [trial for trial in trial_shapes if reach(rate, trial.steps) < LEAST_REACH]
    if slow:
        trial = min(slow, key=lambda one: one.steps)
        enough = LEAST_REACH / reach(1.0, trial.steps)
        yield (
            f"bf16 weights do not follow the lowest learning rate: {rate:g} moves a weight by at most "
            f"{rate * trial.steps:.1g} in the {trial.steps} steps of batch size {trial.batch_size:,}, no more than the "
            f"rounding of bf16; raise the lowest rate to {enough:.2g}, raise train.budget, or set train.precision: fp32"
        )


def _lowest_rate(spec: SweepSpec) -> float:
    """The lowest peak learning rate that can be proposed."""
    return spec.rate_range[0]


def _steps_like_adam(spec: SweepSpec) -> bool:
    """Whether a step moves each weight by about the learning rate, whatever its gradient."""
    swept = spec.search.space.get("optimizer.name")
    names = swept.choices if swept is not None else (spec.train.optimizer.name,)
    return any(name in ("adamw", "adamw_8bit") for name in names)
