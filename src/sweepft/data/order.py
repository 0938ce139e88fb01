"""Which sample comes when: one endless seeded sequence that no hyperparameter of ``train`` can change.

The idea to keep in mind: position ``p`` of the order names the same row in every trial, whatever its batch
size, micro-batch or world size (with weights or phases: :mod:`sweepft.data.curriculum`). A trial of batch size
``B`` takes positions ``[step * B, (step + 1) * B)``, so two trials with the same order digest can be compared sample
by sample. Training losses are also summed over fixed blocks of positions (`BlockLosses`), which makes that comparison
possible after the fact.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS_PER_BUDGET", "BlockLosses", "Order", "SampleOrder", "block_size", "permutation"]

BLOCKS_PER_BUDGET: Final = 64
"""Blocks of the loss grid in one budget, about."""

_ORDER_VERSION: Final = 1  # change it whenever the same seed would give another sequence


class Order(Protocol):
    """A sequence of rows; equal digests are equal sequences."""

    digest: str

    def indices(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Row numbers at positions ``[start, stop)``."""


def permutation(n_rows: int, seeds: Sequence[int]) -> np.ndarray:
    """A permutation of ``range(n_rows)`` from the raw bits of PCG64, which numpy promises not to change."""
    bits = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(n_rows)
    return np.argsort(np.asarray(bits, dtype=np.uint64), kind="stable").astype(np.int64)


class SampleOrder:
    """An endless sequence of rows: one seeded permutation of all rows per epoch.

    Every run of ``n_rows`` positions that starts at a multiple of ``n_rows`` holds each row once. The
    permutations come from the raw bits of PCG64, which numpy promises not to change, and not from
    ``Generator.permutation``, which it may: a digest made today names the same order under another numpy.
    """

    def __init__(self, n_rows: int, seed: int, tokens_digest: str = "") -> None:
        """Set up the order; permutations are made when they are first asked for.

        Args:
            n_rows: Rows of the token set, at least 1.
            seed: Any integer >= 0.
            tokens_digest: Digest of the token set the rows belong to; it only enters `digest`.
        Raises:
            ValueError: If `n_rows` < 1 or `seed` < 0.
        """
        if n_rows < 1:
            raise ValueError(f"n_rows must be at least 1, got {n_rows}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.n_rows = n_rows
        self.seed = seed
        what = f"sweepft-order-{_ORDER_VERSION}:{tokens_digest}:{n_rows}:{seed}"
        self.digest = hashlib.sha256(what.encode()).hexdigest()
        self._permutations: dict[int, npt.NDArray[np.int64]] = {}

    def indices(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Row numbers at positions ``[start, stop)`` of the endless sequence.

        Returns:
            int64 array of shape ``(stop - start,)``.
        Raises:
            ValueError: Unless ``0 <= start <= stop``.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"positions must satisfy 0 <= start <= stop, got [{start}, {stop})")
        if start == stop:
            return np.empty(0, dtype=np.int64)
        first, last = start // self.n_rows, (stop - 1) // self.n_rows
        parts = []
        for epoch in range(first, last + 1):
            base = epoch * self.n_rows
            parts.append(self._permutation(epoch)[max(start - base, 0) : stop - base])
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        known = self._permutations.get(epoch)
        if known is None:
            known = permutation(self.n_rows, [self.seed, epoch])
            while (
                len(self._permutations) >= 2
            ):  # a batch touches two epochs at most, unless it is larger than one
                del self._permutations[min(self._permutations)]
            self._permutations[epoch] = known
        return known


def block_size(budget_samples: int) -> int:
    """Samples in one block of the loss grid: about 1/64 of the budget, at least 1."""
    if budget_samples < 1:
        raise ValueError(f"budget_samples must be at least 1, got {budget_samples}")
    return math.ceil(budget_samples / BLOCKS_PER_BUDGET)


class BlockLosses:
    """Sums per-sample training losses into the fixed blocks of the sample order.

    Block ``i`` holds positions ``[i * size, min((i + 1) * size, budget))``. Samples may come in any order and
    any grouping; a block is summed in position order once its last sample is in, so its value is the same to
    the last bit however steps and ranks cut the sequence.
    """

    def __init__(self, budget_samples: int, start: int = 0) -> None:
        """Set up an empty grid.

        Args:
            budget_samples: Positions the trial goes through, at least 1.
            start: First position that will come, where a trial goes on. A block that it cuts in two is never
                yielded.
        """
        self.budget_samples = budget_samples
        self.size = block_size(budget_samples)
        if not 0 <= start <= budget_samples:
            raise ValueError(f"start must lie in [0, {budget_samples}], got {start}")
        self.start = start
        self._open: dict[
            int, tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.int64]]
        ] = {}
        self._closed: set[int] = set()
        self._ready: list[tuple[int, float, int]] = []

    def add(self, positions: npt.ArrayLike, loss_sums: npt.ArrayLike, tokens: npt.ArrayLike) -> None:
        """Take the losses of some samples.

        Args:
            positions: Positions in the sample order, shape ``(n,)``.
            loss_sums: Summed loss of each sample's target tokens in nats, shape ``(n,)``; may be NaN or inf.
            tokens: Target tokens of each sample, shape ``(n,)``.
        Raises:
            ValueError: If shapes differ, a position is outside the budget, or a sample comes twice.
        """
        where = np.asarray(positions, dtype=np.int64).reshape(-1)
        losses = np.asarray(loss_sums, dtype=np.float64).reshape(-1)
        counts = np.asarray(tokens, dtype=np.int64).reshape(-1)
        if not where.size == losses.size == counts.size:
            raise ValueError(
                f"lengths differ: {where.size} positions, {losses.size} losses, {counts.size} tokens"
            )
        if where.size == 0:
            return
        if where.min() < self.start or where.max() >= self.budget_samples:
            span = f"[{self.start}, {self.budget_samples})"
            raise ValueError(f"positions must lie in {span}, got {where.min()} to {where.max()}")
        blocks = where // self.size
        for index in np.unique(blocks):
            if index * self.size < self.start:
                continue  # its first samples were consumed before the trial went on
            mine = blocks == index
            self._fill(int(index), where[mine] - int(index) * self.size, losses[mine], counts[mine])

    def drain(self) -> dict[str, list[int] | list[float]]:
        """Blocks completed since the last call, ascending: ``{index, loss, tokens}``, lists of equal length.

        ``loss`` is in nats per target token of the block (NaN for a block without target tokens).
        """
        ready = sorted(self._ready)
        self._ready.clear()
        return {
            "index": [index for index, _, _ in ready],
            "loss": [loss / tokens if tokens else math.nan for _, loss, tokens in ready],
            "tokens": [tokens for _, _, tokens in ready],
        }

    def _fill(
        self,
        index: int,
        offsets: npt.NDArray[np.int64],
        losses: npt.NDArray[np.float64],
        counts: npt.NDArray[np.int64],
    ) -> None:
        if index in self._closed:
            raise ValueError(f"block {index} is already complete: a sample came twice")
        if index not in self._open:
            length = min(self.size, self.budget_samples - index * self.size)
            self._open[index] = (np.zeros(length, np.bool_), np.zeros(length), np.zeros(length, np.int64))
        seen, sums, tokens = self._open[index]
        if seen[offsets].any() or np.unique(offsets).size != offsets.size:
            raise ValueError(f"a sample of block {index} came twice")
        seen[offsets] = True
        sums[offsets] = losses
        tokens[offsets] = counts
        if seen.all():
            self._ready.append((index, float(np.sum(sums)), int(np.sum(tokens))))
            self._closed.add(index)
            del self._open[index]
