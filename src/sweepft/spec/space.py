"""One dimension of a search space: a choice, or a range with a scale."""

from __future__ import annotations

from numbers import Real
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sweepft.spec.fields import Positive, Section, exactly_one, invalid

_Pair = Annotated[tuple[float, float], Field(strict=False)]
_PositivePair = Annotated[tuple[Positive, Positive], Field(strict=False)]
_IntPair = Annotated[tuple[int, int], Field(strict=False)]


class Dimension(Section):
    """Values to try for one key. Give exactly one of these."""

    choice: Annotated[tuple[Any, ...], Field(strict=False, max_length=1000)] | None = None
    """Values to choose from, at most 1,000. The sampler treats numbers as ordered, not as labels."""
    uniform: _Pair | None = None
    """`[low, high]`, both inclusive."""
    log_uniform: _PositivePair | None = None
    """`[low, high]`, both inclusive and positive, on a logarithmic scale."""
    int_uniform: _IntPair | None = None
    """`[low, high]`, whole numbers, both inclusive."""

    @model_validator(mode="after")
    def _validate(self) -> Self:
        exactly_one(self, ("choice", "uniform", "log_uniform", "int_uniform"))
        if self.choice is not None:
            if not self.choice:
                raise invalid("must have at least one choice", "for example choice: [0.0, 0.03]")
            for i, value in enumerate(self.choice):
                if any(same(value, other) for other in self.choice[:i]):
                    raise invalid(f"must not list {value!r} twice", "remove one of them")
            return self
        low, high = self.bounds
        if low >= high:
            raise invalid("must have low < high", f"for example {self.kind}: [{high}, {low}]")
        return self

    @property
    def kind(self) -> Literal["choice", "uniform", "log_uniform", "int_uniform"]:
        """The key that was given."""
        if self.choice is not None:
            return "choice"
        if self.uniform is not None:
            return "uniform"
        return "log_uniform" if self.log_uniform is not None else "int_uniform"

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a choice; empty for ranges."""
        return self.choice or ()

    @property
    def bounds(self) -> tuple[float, float] | tuple[int, int]:
        """Low and high of a range.

        Raises:
            ValueError: For a choice.
        """
        found = self.uniform or self.log_uniform or self.int_uniform
        if found is None:
            raise ValueError("a choice has no bounds")
        return found

    @property
    def size(self) -> int | None:
        """Number of values; None for a continuous range."""
        if self.choice is not None:
            return len(self.choice)
        return None if self.int_uniform is None else self.int_uniform[1] - self.int_uniform[0] + 1

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers: a range, or a choice of numbers only."""
        return self.choice is None or all(_is_number(value) for value in self.choice)

    def contains(self, value: Any) -> bool:
        """Whether ``value`` can be proposed."""
        if self.choice is not None:
            return any(same(value, option) for option in self.choice)
        low, high = self.bounds
        if not _is_number(value) or not low <= value <= high:
            return False
        return self.int_uniform is None or value == int(value)

    def examples(self) -> list[tuple[tuple[str | int, ...], Any]]:
        """Key path and value of each choice, or of the two ends of a range: if these are valid, all values are."""
        if self.choice is not None:
            return [(("choice", i), value) for i, value in enumerate(self.choice)]
        return [((self.kind, i), value) for i, value in enumerate(self.bounds)]


def same(a: Any, b: Any) -> bool:
    """Whether two spec values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
