"""A setting as another trainer has it, in the words of a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Left:
    """Something that a foreign config says and that is not carried over.

    Attributes:
        key: The foreign key.
        value: Its value.
        why: What sweepft does instead, or why it has no word for it.
    """

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value!r}: {self.why}"


@dataclass
class Setting:
    """One training setting: the user's own, which becomes the first trial.

    Attributes:
        tool: Whose config it is, in words.
        model: Keys of the spec's `model`.
        sources: Entries of `data.train`.
        validation: Entries of `data.validation`.
        data: Other keys of `data`.
        train: Keys of `train` that the sweep keeps.
        batch: Samples per optimizer step for each GPU: micro-batch times accumulation.
        point: Swept values: learning rate, warmup, schedule, and of adapters the rank.
        budget: `epochs`, or `steps`.
        left: What is not carried over.
        quiet: Keys of logging, saving and the like, which have no effect on the result.
    """

    tool: str
    model: dict[str, Any] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    batch: int = 8
    point: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)


class Config:
    """A foreign config whose keys are taken one by one, so that what is left over can be listed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {key: value for key, value in values.items() if value is not None and value != ""}
        self._taken: set[str] = set()

    def take(self, *names: str, default: Any = None) -> Any:
        """The value of the first of these keys that is given; all of them are taken."""
        found = [self._values[name] for name in names if name in self._values]
        self._taken.update(names)
        return found[0] if found else default

    def number(self, *names: str, default: Any = None) -> Any:
        """A number, which YAML 1.1 writers may have written as text (``1e-5``)."""
        value = self.take(*names, default=default)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
        return value

    def has(self, name: str) -> bool:
        """Whether a key is given."""
        return name in self._values

    def rest(self) -> dict[str, Any]:
        """Keys that were not taken."""
        return {key: value for key, value in self._values.items() if key not in self._taken}

    def leave(
        self,
        setting: Setting,
        words: Mapping[str, str],
        quiet: Iterable[str],
        is_quiet: Callable[[str], bool],
    ) -> None:
        """List the keys that were not taken: those with `words`, quiet ones, and all others.

        A value that means "off" (false, 0, an empty list) says nothing.
        """
        quiet = set(quiet)
        for key, value in self.rest().items():
            if key in quiet or is_quiet(key):
                setting.quiet.append(key)
            elif value not in (False, 0, [], {}, "no", "none"):
                setting.left.append(Left(key, value, words.get(key, "sweepft has no key for it")))
