"""What a trial trains with, to tell repeats with other seeds, and trials whose losses cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from hashlib import sha1
from typing import Any, Final

__all__ = ["configuration", "loss_shifts", "varies"]

_SEEDS: Final = ("seed", "random_state")
_SHIFTS: Final = ("dropout", "drop_path", "smoothing", "neftune", "mixup", "cutmix")


def configuration(config: Mapping[str, Any]) -> str | None:
    """A digest of all hyperparameters but seeds: equal for repeats.

    Returns:
        None where nothing is known, or where a value is no plain data and so cannot be compared: such a trial repeats
        no other.
    """
    try:
        found = _plain(config)
    except TypeError:
        return None
    return sha1(repr(found).encode(), usedforsecurity=False).hexdigest() if found else None


def _plain(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not _has(k, _SEEDS)}
        return tuple((k, _plain(kept[k])) for k in sorted(kept))
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()  # numpy's scalars
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError


def loss_shifts(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Those that shift the training loss itself, such as dropout: their names, without the path, and values."""
    return tuple((k, repr(v)) for k, v in _leaves(config) if _has(k, _SHIFTS))


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(key).lower(), value


def varies(settings: Iterable[tuple[tuple[str, str], ...]]) -> bool:
    """Whether any of these settings, one tuple a trial, has more than one value."""
    seen: dict[str, str] = {}
    return any(seen.setdefault(name, value) != value for own in settings for name, value in own)


def _has(key: Any, words: Iterable[str]) -> bool:
    return any(word in str(key).lower() for word in words)
