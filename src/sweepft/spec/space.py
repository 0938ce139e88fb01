"""One dimension of a search space: a choice, or a range with a scale; and fields that follow another one."""

from __future__ import annotations

import math
from numbers import Real
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sweepft.spec.fields import Positive, PositiveInt, Section, exactly_one, invalid

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
    prior: float | None = None
    """Where in the range you expect the best value, e.g. `2e-4`: most start-up trials are drawn from around it, and the
    samplers `tpe`, `gp`, `random` and `qmc` prefer values near it, the less the more trials there are. With `at_batch`,
    the value at that batch size."""
    width: Positive | None = None
    """How sure you are: with this probability of two thirds the best value lies within this factor of `prior`
    (`log_uniform`), or within this difference (`uniform`, `int_uniform`). By default an eighth of the range on its own
    scale."""
    at_batch: PositiveInt | None = None
    """For `learning_rate`: batch size that the values are for. A trial of another batch size trains with the value
    scaled to it, so that the sampler compares rates of different batch sizes on one scale."""
    scaling: Literal["sqrt", "linear"] | None = None
    """With `at_batch`: the rate grows with the square root of the batch size (the default), or in proportion to it."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_tie(cls, data: Any) -> Any:
        if isinstance(data, dict) and {"times", "of"} & data.keys():
            raise invalid(
                "follows another field, so it is no dimension of the space", "move it to search.tied"
            )
        return data

    @model_validator(mode="after")
    def _validate(self) -> Self:
        exactly_one(self, ("choice", "uniform", "log_uniform", "int_uniform"))
        if self.scaling is not None and self.at_batch is None:
            raise invalid("scaling requires at_batch", "add at_batch: the batch size that the values are for")
        if self.at_batch is not None and (self.int_uniform is not None or not self.is_numeric):
            raise invalid(
                "at_batch requires numbers of a continuous scale", "use log_uniform, or a choice of numbers"
            )
        if self.width is not None and self.prior is None:
            raise invalid("width requires prior", "add prior: the value that you expect to be the best")
        if self.choice is not None:
            if self.prior is not None:
                remedy = "use log_uniform, uniform or int_uniform, or list likely values in search.start_with"
                raise invalid("prior requires a range, not a choice", remedy)
            if not self.choice:
                raise invalid("must have at least one choice", "for example choice: [0.0, 0.03]")
            for i, value in enumerate(self.choice):
                if any(same(value, other) for other in self.choice[:i]):
                    raise invalid(f"must not list {value!r} twice", "remove one of them")
            return self
        low, high = self.bounds
        if low >= high:
            raise invalid("must have low < high", f"for example {self.kind}: [{high}, {low}]")
        if self.prior is not None and not low <= self.prior <= high:
            remedy = f"use a value from {low:g} to {high:g}, or widen the range"
            raise invalid(f"prior {self.prior:g} lies outside of the range", remedy)
        if self.width is not None and self.log_uniform is not None and self.width <= 1:
            raise invalid(
                "width must be greater than 1 with log_uniform, where it is a factor", "for example width: 3"
            )
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

    def scale(self, batch_size: int) -> float:
        """What a value is multiplied by for a trial of this batch size; 1 without ``at_batch``."""
        if self.at_batch is None:
            return 1.0
        ratio = batch_size / self.at_batch
        return ratio if self.scaling == "linear" else math.sqrt(ratio)

    def contains(self, value: Any, batch_size: int | None = None) -> bool:
        """Whether ``value`` can be proposed.

        Args:
            value: Of the field.
            batch_size: Of the trial, with ``at_batch``; None where the value is one of the dimension's own scale.
        """
        scale = 1.0 if batch_size is None else self.scale(batch_size)
        if scale != 1.0 and _is_number(value):
            own = value / scale  # rounding must not put an end of the range outside
            ends = self.choice if self.choice is not None else self.bounds
            if any(math.isclose(own, end, rel_tol=1e-9) for end in ends):
                return True
            return self.choice is None and self.bounds[0] < own < self.bounds[1]
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


class Tied(Section):
    """A field that follows another one."""

    times: Positive
    """Factor."""
    of: Annotated[str, Field(min_length=1)]
    """Field of `train`, swept or fixed, that this one is a multiple of."""

    def value(self, of: float) -> float:
        """The field's value where the other one has this value; whole numbers stay whole."""
        value = self.times * of
        return int(value) if float(value).is_integer() else value


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
