"""Bounds on validation losses (``search.subject_to``), with the numbers that the ledger has for them.

A bound may be relative to the base model. Its limit is then known only once the base model's loss is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweepft.ledger.rows import Row


@dataclass(frozen=True)
class Bound:
    """The largest loss allowed on one validation set, in nats per target token.

    Attributes:
        name: Of the validation set.
        at_most: As the spec has it.
        above_base: Whether ``at_most`` is counted from the base model's loss.
        base: The base model's loss on the set; None where it is not recorded.
        problem: Why it could not be measured; the bound then does not apply.
    """

    name: str
    at_most: float
    above_base: bool
    base: float | None = None
    problem: str | None = None

    @property
    def limit(self) -> float | None:
        """The largest loss allowed; None while the base model's loss is not known."""
        if not self.above_base:
            return self.at_most
        return None if self.base is None else self.base + self.at_most


@dataclass(frozen=True)
class Bounds:
    """The bounds of a sweep; without any, every trial meets them."""

    entries: tuple[Bound, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether a base model's loss is still to be measured."""
        return any(bound.limit is None and bound.problem is None for bound in self.entries)

    @property
    def limits(self) -> dict[str, float]:
        """The largest loss allowed by validation set, of the bounds that apply; empty while `pending`."""
        if self.pending:
            return {}
        return {bound.name: bound.limit for bound in self.entries if bound.limit is not None}

    @property
    def base(self) -> dict[str, float]:
        """The base model's loss by bounded validation set, where it is known."""
        return {bound.name: bound.base for bound in self.entries if bound.base is not None}

    @classmethod
    def of(cls, spec: Mapping[str, Any], scores: Mapping[tuple[str | None, str], Row]) -> Bounds:
        """The bounds of a resolved spec.

        Args:
            spec: As plain data.
            scores: `score` rows by trial_id (None: the base model) and name.
        """
        declared = (spec.get("search") or {}).get("subject_to") or {}
        return cls(tuple(_bound(name, entry, scores.get((None, name))) for name, entry in declared.items()))


def _bound(name: str, entry: Mapping[str, Any], row: Row | None) -> Bound:
    above_base = entry.get("above") == "base"
    base, problem = None, None
    if row is not None:
        base = (row["metrics"].get("loss") or {}).get("value")
        if base is None or not math.isfinite(base):
            base, problem = None, row.get("reason") or "the base model's loss is not finite"
    return Bound(name, float(entry["at_most"]), above_base, base, problem if above_base else None)


def excesses(losses: Mapping[str, float | None], limits: Mapping[str, float]) -> dict[str, float]:
    """How far each loss lies above its limit, in nats: 0 or less where it is allowed, infinite where it is unknown."""
    found = {}
    for name, limit in limits.items():
        loss = losses.get(name)
        found[name] = loss - limit if loss is not None and math.isfinite(loss) else math.inf
    return found


def violation(losses: Mapping[str, float | None], limits: Mapping[str, float]) -> float:
    """Sum of the losses' excesses above their limits, in nats; 0 where all bounds are met."""
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
