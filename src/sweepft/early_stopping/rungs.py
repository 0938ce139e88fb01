"""Windows: the points of a trial at which it is judged, and when a trial may be judged there.

A window is a fraction of the budget (``0.1``) or a count (``{"steps": 200}``, ``{"samples": 50_000}``).
A trial is at a window at its first step that reaches it, whatever its batch size; the trainable uses the
same functions to know where to compute held-out loss, so that the two can never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

_TOLERANCE = 1e-9  # of the budget: 0.1 * 3 must not lie beyond 0.3


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

    def reached(self, *, step: int, samples_seen: float, budget: float) -> bool:
        """Whether a trial with ``step`` steps and ``samples_seen`` is at or past this window."""
        if self.kind == "steps":
            return step >= self.value
        target = self.value * budget if self.kind == "fraction" else self.value
        return samples_seen >= target - _TOLERANCE * budget


RungSpec = float | int | Mapping[str, float] | Rung


def parse_rungs(rungs: Iterable[RungSpec] | RungSpec) -> tuple[Rung, ...]:
    """Read windows as a person writes them, in the order given, without repeats.

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
            if kind in ("steps", "samples") and _number(value) and value >= 1:
                return Rung("steps" if kind == "steps" else "samples", float(value))
    elif _number(item) and 0 < item <= 1:
        return Rung("fraction", float(item))
    raise ValueError(
        f"rungs: a window is a fraction of the budget in (0, 1] or a count of at least 1 (got {item!r})\n"
        '  write 0.1, {"steps": 200} or {"samples": 50000}'
    )


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def windows_reached(
    rungs: Sequence[Rung], *, step: int, samples_seen: float, budget: float
) -> tuple[Rung, ...]:
    """The windows that a trial at this step has reached, in the order given.

    What a step newly reached is the difference between two calls, before the step and after it.
    """
    return tuple(w for w in rungs if w.reached(step=step, samples_seen=samples_seen, budget=budget))


def rung_steps(rungs: Sequence[Rung], *, batch_size: int, budget: int) -> dict[Rung, int]:
    """The step at which a trial of this batch size is at each window; windows it never reaches are left out.

    Args:
        rungs: As from `parse_rungs`.
        batch_size: Samples per optimizer step over all ranks.
        budget: Samples of the whole trial; its last batch holds what is left.
    """
    planned = math.ceil(budget / batch_size)
    steps = {}
    for rung in rungs:
        if rung.kind == "steps":
            step = math.ceil(rung.value)
        else:
            target = rung.value * budget if rung.kind == "fraction" else rung.value
            step = max(1, math.ceil((target - _TOLERANCE * budget) / batch_size))
        if step <= planned:
            steps[rung] = step
    return steps


def eligible(*, step: int, min_steps: int, warmup_steps: int) -> bool:
    """Whether a trial may be judged at this step: enough optimizer steps, and its warmup is over.

    A trial that is not eligible at a window is judged at the next one.
    """
    return step >= min_steps and (warmup_steps <= 0 or step > warmup_steps)
