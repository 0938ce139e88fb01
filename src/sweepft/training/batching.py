"""Split a global batch into micro-batches, collate samples for a forward pass, and prefetch the next step's batches.

The split never changes the result: loss and gradient are weighted token means over the *global* batch, so micro-batches
may hold rows of similar length, or as many tokens as fit. Where a model's rotary embeddings depend on the longest row
of a batch, rows of different length classes never share one. Every rank computes the same split by itself.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepft.data.cache import Mask, TokenSet
from sweepft.data.order import Order
from sweepft.training.length_classes import LengthClasses

_IGNORE = -100
Row = tuple[NDArray[np.int64], Mask]
"""(input_ids, loss_mask) of a sample; a token whose mask is not 0 is a target, a mask in float32 has its weight."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows one rank runs forward at once.

    Attributes:
        rows: Positions within the global batch, shape (n,). May be empty where there are not enough samples for every
            rank: the rank then runs a filler row that carries no loss.
    """

    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes, and which of its positions are scored.

    Attributes:
        input_ids: Shape (rows, length).
        attention_mask: 1 where a token is and 0 where padding, shape (rows, length); None where samples are packed.
        lengths: Tokens of each sample, where samples are packed one after another in a single row; else None.
        positions: Where a target is predicted from: row * length + column, shape (targets,).
        targets: Token ids to predict there, shape (targets,).
        samples: Index of the sample that each target belongs to, shape (targets,).
        count: Number of samples.
        weights: Of each target in the loss, shape (targets,); None where all are 1.
        block: The arrays laid out for one transfer (``sweepft.training.transfer``); None before that.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64] | None
    lengths: NDArray[np.int64] | None
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    samples: NDArray[np.int64]
    count: int
    weights: NDArray[np.float32] | None = None
    block: Any = None


@dataclass(frozen=True)
class Layout:
    """How a rank splits its samples into micro-batches and collates them.

    Attributes:
        kind: ``rows``: at most ``size`` padded rows; ``packed``: samples one after another in one row of at most
            ``size`` tokens; ``grouped``: padded rows of similar length, at most ``size`` tokens with the padding.
        size: Rows or tokens. A sample longer than ``size`` tokens is run alone.
        pad_id: Token that fills padded rows.
        classes: Lengths that may share a micro-batch (``sweepft.training.length_classes``).
    """

    kind: Literal["rows", "packed", "grouped"]
    size: int
    pad_id: int
    classes: LengthClasses = field(default=LengthClasses())

    def split_micro_batches(self, lengths: NDArray[np.int64], world_size: int) -> list[list[MicroBatch]]:
        """Micro-batches of each rank: the same number for all, together holding every row exactly once.

        Args:
            lengths: Tokens of each row of the global batch, shape (batch,).
            world_size: Number of ranks.
        """
        if self.classes and len(groups := self.classes.groups(lengths)) > 1:
            return self._split_by_class(lengths, groups, world_size)
        return self._split(lengths, world_size)

    def _split(self, lengths: NDArray[np.int64], world_size: int) -> list[list[MicroBatch]]:
        if self.kind == "rows":
            return split_micro_batches(lengths, world_size, self.size)
        if self.kind == "packed":
            return _split_by_packed_tokens(lengths, world_size, self.size)
        return _split_by_padded_tokens(lengths, world_size, self.size)

    def _split_by_class(
        self, lengths: NDArray[np.int64], groups: list[NDArray[np.int64]], world_size: int
    ) -> list[list[MicroBatch]]:
        """Each class split by itself, and the micro-batches of all dealt to the ranks."""
        sizes = np.asarray(lengths)
        made = [
            group[micro.rows].tolist()
            for group in groups
            for rank in self._split(sizes[group], world_size)
            for micro in rank
            if len(micro.rows)
        ]
        made += [[]] * (-len(made) % world_size)
        return _deal_there_and_back(sizes, made, world_size)

    def collate(self, rows: list[Row]) -> Batch:
        """Collate the samples of a micro-batch for one forward pass."""
        return _packed(rows) if self.kind == "packed" else _padded(rows, self.pad_id)


def split_micro_batches(
    lengths: NDArray[np.int64], world_size: int, micro_batch: int
) -> list[list[MicroBatch]]:
    """Split a global batch into micro-batches of at most ``micro_batch`` rows.

    Ranks get equal numbers of rows (within one) and balanced token counts: rows are dealt longest first, each to
    the rank with the fewest tokens that still has room. A rank's micro-batches hold rows of similar length.

    Args:
        lengths: Tokens of each row of the global batch, shape (batch,).
        world_size: Number of ranks.
        micro_batch: Maximum rows of a micro-batch.
    Returns:
        For each rank the same number of micro-batches, together holding every row exactly once.
    """
    room = -(-len(lengths) // world_size)
    count = max(1, -(-room // micro_batch))
    return [
        [_micro(rows[i * micro_batch : (i + 1) * micro_batch]) for i in range(count)]
        for rows in _deal(lengths, world_size, room)
    ]


def _deal(lengths: NDArray[np.int64], world_size: int, room: int) -> list[list[int]]:
    """Rows of each rank, longest first: balanced in tokens, at most ``room`` each."""
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    tokens = np.zeros(world_size, dtype=np.int64)
    for row in np.argsort(-np.asarray(lengths), kind="stable"):
        open_ranks = [rank for rank in range(world_size) if len(dealt[rank]) < room]
        rank = min(open_ranks, key=lambda r: (tokens[r], r))
        dealt[rank].append(int(row))
        tokens[rank] += lengths[row]
    return dealt


def _split_by_padded_tokens(
    lengths: NDArray[np.int64], world_size: int, tokens: int
) -> list[list[MicroBatch]]:
    """Micro-batches of rows of similar length: row count times longest row is at most ``tokens``."""
    ranks: list[list[MicroBatch]] = []
    for rows in _deal(lengths, world_size, -(-len(lengths) // world_size)):
        micros, begin = [], 0
        while begin < len(rows):
            most = max(1, tokens // int(lengths[rows[begin]]))
            micros.append(_micro(rows[begin : begin + most]))
            begin += most
        ranks.append(micros)
    count = max(len(micros) for micros in ranks)
    return [micros + [_micro([])] * (count - len(micros)) for micros in ranks]


def _split_by_packed_tokens(
    lengths: NDArray[np.int64], world_size: int, tokens: int
) -> list[list[MicroBatch]]:
    """Fewest micro-batches of at most ``tokens`` tokens, all of about the same size.

    Rows are dealt longest first, each to the micro-batch with the fewest tokens, so that ranks finish together.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    most = max(tokens, int(sizes.max()))
    count = max(1, -(-int(sizes.sum()) // (world_size * most)))
    while (bins := _spread(sizes, order, world_size * count, most)) is None:
        count += 1
    return _deal_there_and_back(sizes, bins, world_size)


def _deal_there_and_back(
    sizes: NDArray[np.int64], micros: list[list[int]], world_size: int
) -> list[list[MicroBatch]]:
    """A multiple of ``world_size`` micro-batches, dealt so that those of each rank add up to about the same tokens."""
    micros = sorted(micros, key=lambda rows: -int(sizes[rows].sum()) if rows else 0)
    there_and_back = [*range(world_size), *reversed(range(world_size))]
    ranks: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    for i, rows in enumerate(micros):
        ranks[there_and_back[i % len(there_and_back)]].append(_micro(rows))
    return ranks


def _spread(
    sizes: NDArray[np.int64], order: NDArray[np.int64], bins: int, most: int
) -> list[list[int]] | None:
    """Rows in ``bins`` bins, or None when the fullest would hold more than ``most`` tokens."""
    held: list[list[int]] = [[] for _ in range(bins)]
    emptiest = [(0, i) for i in range(bins)]
    for row in order:
        tokens, i = emptiest[0]
        if tokens + sizes[row] > most:
            return None
        held[i].append(int(row))
        heapq.heapreplace(emptiest, (tokens + int(sizes[row]), i))
    return held


def _micro(rows: list[int]) -> MicroBatch:
    return MicroBatch(np.asarray(rows, dtype=np.int64))


def pad(rows: list[Row], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pad rows on the right into one rectangle.

    Args:
        rows: The samples.
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
        labels[i, :n] = np.where(mask != 0, ids, _IGNORE)
        labels[i, 0] = _IGNORE
    return input_ids, attention, labels


def _padded(rows: list[Row], pad_id: int) -> Batch:
    input_ids, attention, labels = pad(rows, pad_id)
    samples, columns = np.nonzero(labels[:, 1:] != _IGNORE)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention,
        lengths=None,
        positions=samples * input_ids.shape[1] + columns,
        targets=input_ids[samples, columns + 1],
        samples=samples,
        count=len(rows),
        weights=_weights(rows),
    )


def _packed(rows: list[Row]) -> Batch:
    lengths = np.asarray([len(ids) for ids, _ in rows], dtype=np.int64)
    ids = np.concatenate([ids for ids, _ in rows])
    wanted = np.concatenate([mask != 0 for _, mask in rows])
    wanted[np.cumsum(lengths) - lengths] = False  # a sample's first token has no prediction, packed or not
    targets = np.nonzero(wanted)[0]
    return Batch(
        input_ids=ids[None],
        attention_mask=None,
        lengths=lengths,
        positions=targets - 1,
        targets=ids[targets],
        samples=np.repeat(np.arange(len(rows)), lengths)[targets],
        count=len(rows),
        weights=_weights(rows),
    )


def _weights(rows: list[Row]) -> NDArray[np.float32] | None:
    """Weights of all targets, sample by sample; None where no sample has any."""
    if all(mask.dtype == np.bool_ for _, mask in rows):
        return None
    return np.concatenate([mask[1:][mask[1:] != 0].astype(np.float32) for _, mask in rows])


@dataclass(frozen=True)
class Step:
    """One rank's share of an optimizer step.

    Attributes:
        tokens: Target tokens of the whole global batch.
        weight: The sum of their weights in the loss: their number, where turns have no weights.
        micro_batches: For each forward pass the positions of its samples in the sample order, and its batch. Without
            positions it is a filler: backward must happen on all ranks alike.
    """

    tokens: int
    weight: float
    micro_batches: list[tuple[NDArray[np.int64], Batch]]


def collate_step(
    rows: TokenSet,
    order: Order,
    layout: Layout,
    start: int,
    stop: int,
    rank: int,
    world_size: int,
    finish: Callable[[Batch], Batch] = lambda batch: batch,
) -> Step:
    """A rank's share of the positions [start, stop) of the sample order; ``finish`` is applied to each batch."""
    indices = order.indices(start, stop)
    made = []
    for micro in layout.split_micro_batches(rows.lengths[indices], world_size)[rank]:
        chosen = indices[micro.rows] if len(micro.rows) else indices[:1]
        batch = layout.collate([rows.weighted_row(int(r)) for r in chosen])
        made.append((start + micro.rows, finish(batch)))
    return Step(int(rows.targets[indices].sum()), float(rows.weights[indices].sum()), made)


class BatchPrefetcher:
    """Collates optimizer steps, the next one in a background thread while the current one runs.

    Attributes:
        waited: Total seconds that ``take`` has waited for steps.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sweepft-prefetch")
        self._coming: tuple[Any, Future[Step]] | None = None
        self.waited = 0.0

    def take(self, make: Callable[[int, int], Step], key: object, here: range, then: range) -> Step:
        """The step of the positions ``here``; starts on the one of ``then``, if there are any.

        ``make`` runs in the prefetcher's thread only.

        Args:
            make: Makes the step from its first position and the one after its last.
            key: What a step depends on besides its positions; a prefetched step of another key is discarded.
            here: Positions of the step needed now.
            then: Positions of the step probably needed next; may be empty.
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
