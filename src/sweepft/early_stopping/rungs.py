"""Rungs: the points of a trial at which it is judged, and the step at which a trial is at one.

A rung is a fraction of the budget (``0.1``) or a count (``{"steps": 200}``, ``{"samples": 50_000}``). A trial is at a
rung at its first step that reaches it, whatever its batch size. Everything that needs that step takes it from `Rung`:
the slot that computes validation loss there, the early stopper that judges there, the plan and the replay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

ROUNDING: Final = 1e-9
"""Share of the budget by which a rung may be missed: 0.07 * 800 is 56.00000000000001, but 56 samples are 7%."""


@dataclass(frozen=True)
class Rung:
    """One point of a trial.

    Attributes:
        kind: ``fraction`` of the budget, or a count of optimizer ``steps`` or ``samples``.
        value: In (0, 1] for a fraction, else a positive count.
    """

    kind: Literal["fraction", "steps", "samples"]
    value: float

    @property
    def fraction(self) -> float | None:
        """Nominal fraction of the budget; None for counts."""
        return self.value if self.kind == "fraction" else None

    @property
    def name(self) -> str:
        """What people read: ``10%``, ``200 steps``, ``50000 samples``."""
        return f"{100 * self.value:g}%" if self.kind == "fraction" else f"{self.value:g} {self.kind}"

    def threshold(self, budget: float) -> float:
        """The least progress of a trial that is at this rung, in the budget's unit. Not for ``steps``."""
        target = self.value * budget if self.kind == "fraction" else self.value
        return target - ROUNDING * budget

    def reached(self, *, step: int, samples_seen: float, budget: float) -> bool:
        """Whether a trial with ``step`` steps and ``samples_seen`` is at or past this rung."""
        return step >= self.value if self.kind == "steps" else samples_seen >= self.threshold(budget)

    def first_step(self, *, batch_size: int, budget: int) -> int | None:
        """The first step that reaches this rung; None for a trial that ends before it.

        Args:
            batch_size: Samples per optimizer step over all ranks.
            budget: Samples of the whole trial; its last batch holds what is left.
        """
        if self.kind == "steps":
            step = math.ceil(self.value)
            return step if step <= -(-budget // batch_size) else None
        samples = max(1, math.ceil(self.threshold(budget)))  # integers from here on: no further rounding
        return -(-samples // batch_size) if samples <= budget else None


RungSpec = float | int | Mapping[str, float] | Rung


def parse_rungs(rungs: Iterable[RungSpec] | RungSpec) -> tuple[Rung, ...]:
    """Read rungs as people write them, in the order given, without repeats.

    Raises:
        ValueError: A fraction outside (0, 1], a count below 1, or an unknown unit.
    """
    items = [rungs] if isinstance(rungs, (int, float, Mapping, Rung)) else list(rungs)
    return tuple(dict.fromkeys(_parse_one(item) for item in items))


def _parse_one(item: RungSpec) -> Rung:
    if isinstance(item, Rung):
        return item
    if isinstance(item, Mapping):
        if len(item) == 1:
            kind, value = next(iter(item.items()))
            if kind in ("steps", "samples") and is_number(value) and value >= 1:
                return Rung("steps" if kind == "steps" else "samples", float(value))
    elif is_number(item) and 0 < item <= 1:
        return Rung("fraction", float(item))
    raise ValueError(
        f"rungs: must be fractions of the budget in (0, 1] or counts of at least 1 (got {item!r})\n"
        '  write 0.1, {"steps": 200} or {"samples": 50000}'
    )


def is_number(value: object) -> bool:
    """Whether an argument is a finite number; a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def rung_steps(rungs: Sequence[Rung], *, batch_size: int, budget: int) -> dict[Rung, int]:
    """The step at which a trial of this batch size is at each rung; rungs that it never reaches are left out."""
    steps = {rung: rung.first_step(batch_size=batch_size, budget=budget) for rung in rungs}
    return {rung: step for rung, step in steps.items() if step is not None}


def eligible(*, step: int, min_steps: float, warmup_steps: int) -> bool:
    """Whether a trial may be judged at this step: enough optimizer steps, and its warmup is over.

    A trial that is not eligible at a rung is judged at the next one.
    """
    return step >= min_steps and (warmup_steps <= 0 or step > warmup_steps)
