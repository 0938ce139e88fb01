"""What trials showed at one window, as columns: a verdict reads a few hundred peers at once.

One idea: a snapshot does not change, so its numbers are put beside those of its peers when it arrives, and no verdict
goes through objects.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepft.rules.curve import Snapshot

__all__ = ["Columns"]

_FIELDS = ("mean_metric", "loss", "block_loss", "log_grad_norm")


class Columns:
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
