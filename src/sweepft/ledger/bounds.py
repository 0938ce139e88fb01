"""Bounds on validation losses and on tasks (``search.subject_to``), with the numbers that the ledger has for them.

A bound may be relative to the base model. Its limit is then known only once the base model is measured.

All bounded values are compared as costs, of which less is better: a loss is one, and the value of a task of which more
is better is turned, as `costs_of` does. Limits are costs, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sweepft.ledger.objective import measured_tasks
from sweepft.ledger.rows import Row


@dataclass(frozen=True)
class Bound:
    """The largest loss allowed on one validation set, in nats per target token, or the worst value of one task.

    Attributes:
        name: Of the validation set or task.
        at_most, at_least: As the spec has it, one of them.
        above_base, below_base: Whether ``at_most`` is counted upwards or downwards from the base model's value.
        metric: Of a task; None for a validation set.
        base: The base model's loss or value; None where it is not recorded.
        base_stderr: Its standard error, where it has one.
        problem: Why it could not be measured; a bound that is counted from it then does not apply.
    """

    name: str
    at_most: float | None = None
    above_base: bool = False
    at_least: float | None = None
    below_base: bool = False
    metric: str | None = None
    base: float | None = None
    base_stderr: float | None = None
    problem: str | None = None

    @property
    def sign(self) -> int:
        """What turns a value into a cost: -1 where more is better."""
        return -1 if self.at_least is not None or self.below_base else 1

    @property
    def relative(self) -> bool:
        """Whether it is counted from the base model's value."""
        return self.above_base or self.below_base

    @property
    def needs_base(self) -> bool:
        """Whether the base model is measured for it: also for a task, whose value may rise in training or fall."""
        return self.relative or self.metric is not None

    @property
    def pending(self) -> bool:
        """Whether the base model is still to be measured for it."""
        return self.needs_base and self.base is None and self.problem is None

    @property
    def limit(self) -> float | None:
        """The largest cost allowed; None where it is counted from the base model's value, which is not known."""
        if self.at_least is not None:
            return -self.at_least
        assert self.at_most is not None
        if not self.relative:
            return self.at_most
        if self.base is None:
            return None
        found = self.sign * self.base + self.at_most
        return found if self.metric is None else round(found, 12)  # a score may lie on it: 0.4 - 0.1 is 0.3

    @property
    def worst(self) -> float | None:
        """The limit as a value."""
        return None if self.limit is None else self.sign * self.limit + 0.0  # no -0.0

    @property
    def base_cost(self) -> float | None:
        """The base model's value as a cost. Where that of a task is not known, or beyond the limit, the limit: the task
        then improves in training, and a bad value early on says nothing.
        """
        if self.base is not None and self.metric is None:
            return self.base
        if self.metric is None or self.limit is None:
            return None
        return self.limit if self.base is None else min(self.limit, self.sign * self.base)


@dataclass(frozen=True)
class Bounds:
    """The bounds of a sweep; without any, every trial meets them."""

    entries: tuple[Bound, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether the base model is still to be measured."""
        return any(bound.pending for bound in self.entries)

    @property
    def limits(self) -> dict[str, float]:
        """The largest cost allowed by name, of the bounds that apply; empty while `pending`."""
        if self.pending:
            return {}
        return {bound.name: bound.limit for bound in self.entries if bound.limit is not None}

    @property
    def base(self) -> dict[str, float]:
        """The base model's cost by name, where it is known; see `Bound.base_cost`."""
        return {bound.name: bound.base_cost for bound in self.entries if bound.base_cost is not None}

    @property
    def noise(self) -> dict[str, float]:
        """Standard error of the difference between a trial's value and the base model's on the same number of items, by
        name of the task; 0 where it is not known.
        """
        tasks = (bound for bound in self.entries if bound.metric is not None)
        return {bound.name: math.sqrt(2) * (bound.base_stderr or 0.0) for bound in tasks}

    @classmethod
    def of(cls, spec: Mapping[str, Any], scores: Mapping[tuple[str | None, str], Row]) -> Bounds:
        """The bounds of a resolved spec.

        Args:
            spec: As plain data.
            scores: `score` rows by trial_id (None: the base model) and name.
        """
        declared, tasks = (spec.get("search") or {}).get("subject_to") or {}, measured_tasks(spec)
        return cls(
            tuple(
                _bound(name, entry, tasks.get(name), scores.get((None, base_score(name, name in tasks))))
                for name, entry in declared.items()
            )
        )


def base_score(name: str, is_task: bool) -> str:
    """The name of the `score` row with the base model's value. That of a task is not the one of the finalists, which
    may have other items.
    """
    return f"measured: {name}" if is_task else name


def _bound(name: str, entry: Mapping[str, Any], metric: str | None, row: Row | None) -> Bound:
    base, stderr, problem = None, None, None
    if row is not None:
        found = row["metrics"].get("loss" if metric is None else metric) or {}
        base, stderr = found.get("value"), found.get("stderr")
        if base is None or not math.isfinite(base):
            base, problem = None, row.get("reason") or "the base model's value is not finite"
    bound = Bound(
        name,
        None if entry.get("at_most") is None else float(entry["at_most"]),
        entry.get("above") == "base",
        None if entry.get("at_least") is None else float(entry["at_least"]),
        entry.get("below") == "base",
        metric,
        base,
        stderr,
        problem,
    )
    return bound if bound.needs_base else replace(bound, problem=None)


def excesses(losses: Mapping[str, float | None], limits: Mapping[str, float]) -> dict[str, float]:
    """How far each cost lies above its limit: 0 or less where it is allowed, infinite where it is unknown."""
    found = {}
    for name, limit in limits.items():
        loss = losses.get(name)
        found[name] = loss - limit if loss is not None and math.isfinite(loss) else math.inf
    return found


def violation(losses: Mapping[str, float | None], limits: Mapping[str, float]) -> float:
    """Sum of the excesses above the limits, each in its own unit; 0 where all bounds are met."""
    return sum(over for over in excesses(losses, limits).values() if over > 0)


def pareto_front(points: Mapping[str, tuple[float, ...]]) -> list[str]:
    """Names of the points that no other one beats: by ascending first value; of equal points the first one.

    Args:
        points: Values by name, lower is better, all of the same length.
    """
    front: list[str] = []
    for name in sorted(points, key=lambda n: points[n]):
        if not any(_no_worse(points[other], points[name]) for other in front):
            front.append(name)
    return front


def _no_worse(a: Iterable[float], b: Iterable[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))
