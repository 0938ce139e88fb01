"""A trial's hyperparameters as one value: to tell repeats with other seeds, and which hyperparameters vary."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Final

__all__ = ["configuration", "varies"]

_SEEDS: Final = ("seed", "random_state")


def configuration(config: Mapping[str, Any]) -> Hashable | None:
    """What repeats of a trial have in common: all hyperparameters but seeds.

    Returns:
        None where nothing is known, or where a value is no plain data and so cannot be compared: such a trial repeats
        no other.
    """
    try:
        found = _plain(config)
    except TypeError:
        return None
    return found or None


def _plain(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not any(seed in str(k).lower() for seed in _SEEDS)}
        return tuple((k, _plain(kept[k])) for k in sorted(kept))
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()  # numpy's scalars
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError


def varies(configurations: Iterable[Hashable | None], words: Iterable[str]) -> bool:
    """Whether any hyperparameter with one of these words in its name has more than one value among the trials."""
    seen: dict[str, Hashable] = {}
    for found in set(configurations):
        for name, value in _leaves(found):
            if any(word in name for word in words) and seen.setdefault(name, value) != value:
                return True
    return False


def _leaves(found: Any) -> Iterator[tuple[str, Hashable]]:
    """Names (in lower case, without the path) and values."""
    for pair in found if isinstance(found, tuple) else ():
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            return
        if isinstance(pair[1], tuple):
            yield from _leaves(pair[1])
        yield pair[0].lower(), pair[1]
