"""How one global batch is cut into micro-batches: which rank sees which samples, and when.

The cut never changes the result: loss and gradient are token means over the *global* batch, so ranks and
micro-batches are free to hold rows of similar length. Every rank computes the same cut by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MicroBatch", "cut", "pad"]

_IGNORE = -100


@dataclass(frozen=True)
class MicroBatch:
    """Rows one rank runs forward at once.

    Attributes:
        rows: Positions within the global batch, shape (n,). May be empty where the last batch of a trial
            is smaller than a full one: the rank then runs a filler row that carries no loss.
    """

    rows: NDArray[np.int64]


def cut(lengths: NDArray[np.int64], world_size: int, micro_batch: int) -> list[list[MicroBatch]]:
    """Cut a global batch into micro-batches for each rank.

    Ranks get equal numbers of rows (within one) and balanced token counts: rows are dealt longest first, each to
    the rank with the fewest tokens that still has room. A rank's micro-batches hold rows of similar length.

    Args:
        lengths: Tokens of each row of the global batch, shape (batch,).
        world_size: Number of ranks.
        micro_batch: Most rows a micro-batch may hold.
    Returns:
        For each rank the same number of micro-batches, together holding every row exactly once.
    """
    total = len(lengths)
    room = -(-total // world_size)
    count = max(1, -(-room // micro_batch))
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    tokens = np.zeros(world_size, dtype=np.int64)
    for row in np.argsort(-np.asarray(lengths), kind="stable"):
        open_ranks = [rank for rank in range(world_size) if len(dealt[rank]) < room]
        rank = min(open_ranks, key=lambda r: (tokens[r], r))
        dealt[rank].append(int(row))
        tokens[rank] += lengths[row]
    return [
        [
            MicroBatch(np.asarray(rows[i * micro_batch : (i + 1) * micro_batch], dtype=np.int64))
            for i in range(count)
        ]
        for rows in dealt
    ]


def pad(
    rows: list[tuple[NDArray[np.int64], NDArray[np.bool_]]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pad rows on the right into one rectangle.

    Args:
        rows: (input_ids, loss_mask) of each row; a token whose mask is True is a target.
        pad_id: Token that fills the rest.
    Returns:
        input_ids, attention_mask and labels, each of shape (rows, longest). A label is the token itself where it
        is a target, else -100. The first token of a row is never a target: nothing predicts it.
    """
    longest = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), _IGNORE, dtype=np.int64)
    for i, (ids, mask) in enumerate(rows):
        n = len(ids)
        input_ids[i, :n] = ids
        attention[i, :n] = 1
        labels[i, :n] = np.where(mask, ids, _IGNORE)
        labels[i, 0] = _IGNORE
    return input_ids, attention, labels
