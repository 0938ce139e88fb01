"""What a trial trains with, to tell repeats with other seeds, and trials whose losses cannot be compared."""
# MERGED What trials showed at one window, as columns: a verdict reads a few hundred peers at once.

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha1
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.curve import Snapshot

_FIELDS = ("mean_metric", "loss", "block_loss", "log_grad_norm")


class RungTable:
    """Numbers of the snapshots at one window, in order of arrival.

    Attributes:
        names: Trials that have arrived.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self._orders: dict[str | None, int] = {None: -1}
        self._columns = {field: array("d") for field in _FIELDS}
        self._order = array("q")  # number of the data order, -1 for none

    def add(self, name: str, snapshot: Snapshot) -> None:
        """A trial arrives."""
        self._places[name] = len(self.names)
        self.names.append(name)
        for field, column in self._columns.items():
            column.append(getattr(snapshot, field))
        self._order.append(self._orders.setdefault(snapshot.data_order, len(self._orders)))

    def places(self, names: Sequence[str]) -> NDArray[Any]:
        """Where these trials stand in the columns."""
        return np.array([self._places[name] for name in names], dtype=np.intp)

    def values(self, field: str, places: NDArray[Any]) -> NDArray[np.float64]:
        """A field of the snapshots at these places."""
        return np.frombuffer(self._columns[field])[places] if len(places) else np.empty(0)

    def same_order(self, places: NDArray[Any]) -> bool:
        """Whether all of these trials, at least one, told the same order of their data."""
        orders = np.frombuffer(self._order, dtype=np.int64)[places] if len(places) else np.array([-1])
        return bool(orders[0] >= 0 and (orders == orders[0]).all())


_SEEDS: Final = ("seed", "random_state")


_SHIFTS: Final = ("dropout", "drop_path", "smoothing", "neftune", "mixup", "cutmix")


def configuration(params: Mapping[str, Any]) -> str | None:
    """A digest of all hyperparameters but seeds: equal for repeats.

    Returns:
        None where nothing is known, or where a value is no plain data and so cannot be compared: such a trial repeats
        no other.
    """
    try:
        found = _plain(params)
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


def loss_shifts(params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Those that shift the training loss itself, such as dropout: their names, without the path, and values."""
    return tuple((k, repr(v)) for k, v in _leaves(params) if _has(k, _SHIFTS))


def _leaves(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
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
