"""The batches of coming optimizer steps, laid out in a thread while the current one runs.

The idea to keep in mind: what a step holds follows from its place in the sample order alone, so that it can be prepared
early and, where it turns out not to be wanted, be thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepft.data.cache import TokenSet
from sweepft.data.order import Order
from sweepft.engine.batches import Batch, Layout

__all__ = ["Feed", "Step", "lay_out_step"]


@dataclass(frozen=True)
class Step:
    """One rank's share of an optimizer step.

    Attributes:
        tokens: Target tokens of the whole global batch.
        micro_batches: For each forward pass the positions of its samples in the sample order, and its batch. Without
            positions it is a filler: backward must happen on all ranks alike.
    """

    tokens: int
    micro_batches: list[tuple[NDArray[np.int64], Batch]]


def lay_out_step(
    rows: TokenSet, order: Order, layout: Layout, start: int, stop: int, rank: int, world_size: int
) -> Step:
    """A rank's share of the positions [start, stop) of the sample order."""
    indices = order.indices(start, stop)
    made = []
    for micro in layout.cut(rows.lengths[indices], world_size)[rank]:
        chosen = indices[micro.rows] if len(micro.rows) else indices[:1]
        made.append((start + micro.rows, layout.lay_out([rows.row(int(r)) for r in chosen])))
    return Step(int(rows.targets[indices].sum()), made)


class Feed:
    """Gives one step after another, and prepares the next one meanwhile.

    Attributes:
        waited: Seconds that ``take`` has waited for steps so far.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sweepft-feed")
        self._coming: tuple[Any, Future[Step]] | None = None
        self.waited = 0.0

    def take(self, make: Callable[[int, int], Step], key: object, here: range, then: range) -> Step:
        """The step of the positions ``here``; the one of ``then`` is begun, if there are any.

        ``make`` runs in this feed's thread and nowhere else.

        Args:
            make: Makes the step from its first position and the one after its last.
            key: What a step depends on beside its positions; a prepared step of another key is thrown away.
            here: Positions of the step wanted now.
            then: Positions of the one that will probably be wanted next; may be empty.
        """
        begin = time.perf_counter()
        known, self._coming = self._coming, None
        if known is None or known[0] != (key, here):
            known = (key, here), self._thread.submit(make, here.start, here.stop)
        step = known[1].result()
        if then:
            self._coming = ((key, then), self._thread.submit(make, then.start, then.stop))
        self.waited += time.perf_counter() - begin
        return step
