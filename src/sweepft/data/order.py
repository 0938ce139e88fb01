"""The sample order of a trial: which row comes at which position, and training losses by block of positions.

Position ``p`` names the same row in every trial of one order, for any batch size, micro-batch or world size: a trial of
batch size ``B`` takes positions ``[step * B, (step + 1) * B)``. Trials with equal order digests can be compared sample
by sample, and `BlockLosses` sums training losses over fixed blocks of positions for that. A curriculum (domain weights,
phases, replay) gives a `CurriculumOrder`; otherwise the order is one seeded permutation per epoch (`SampleOrder`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from sweepft.data.cache import TokenSet
from sweepft.spec import Curriculum

BLOCKS_PER_BUDGET: Final = 64
"""Approximate number of blocks in a budget."""
_ORDER_VERSION: Final = 1  # raise it when the same seed gives another sequence


class Order(Protocol):
    """A sequence of rows; equal digests are equal sequences.

    Attributes:
        digest: Of the sequence.
        phase_starts: Positions at which later phases of a curriculum begin.
    """

    digest: str
    phase_starts: Sequence[int]

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
        self.phase_starts: Sequence[int] = ()
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
            ):  # a batch spans at most two epochs, unless it is larger than one
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
            start: First position, for a trial that continues. A block that it cuts in two is never returned.
        """
        self.budget_samples = budget_samples
        self.size = block_size(budget_samples)
        if not 0 <= start <= budget_samples:
            raise ValueError(f"start must lie in [0, {budget_samples}], got {start}")
        self.start = start
        self._open: dict[
            int, tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]
        ] = {}
        self._closed: set[int] = set()
        self._ready: list[tuple[int, float, float]] = []

    def add(self, positions: npt.ArrayLike, loss_sums: npt.ArrayLike, tokens: npt.ArrayLike) -> None:
        """Add the losses of some samples.

        Args:
            positions: Positions in the sample order, shape ``(n,)``.
            loss_sums: Summed loss of each sample's target tokens in nats, shape ``(n,)``; may be NaN or inf.
            tokens: Target tokens of each sample, shape ``(n,)``; where they have weights, the sums of these.
        Raises:
            ValueError: If shapes differ, a position is outside the budget, or a sample comes twice.
        """
        where = np.asarray(positions, dtype=np.int64).reshape(-1)
        losses = np.asarray(loss_sums, dtype=np.float64).reshape(-1)
        counts = np.asarray(tokens, dtype=np.float64).reshape(-1)
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
                continue  # its first samples were seen before the trial continued
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
            "tokens": [int(tokens) if tokens.is_integer() else tokens for _, _, tokens in ready],
        }

    def _fill(
        self,
        index: int,
        offsets: npt.NDArray[np.int64],
        losses: npt.NDArray[np.float64],
        counts: npt.NDArray[np.float64],
    ) -> None:
        if index in self._closed:
            raise ValueError(f"block {index} is already complete: a sample came twice")
        if index not in self._open:
            length = min(self.size, self.budget_samples - index * self.size)
            self._open[index] = (np.zeros(length, np.bool_), np.zeros(length), np.zeros(length))
        seen, sums, tokens = self._open[index]
        if seen[offsets].any() or np.unique(offsets).size != offsets.size:
            raise ValueError(f"a sample of block {index} came twice")
        seen[offsets] = True
        sums[offsets] = losses
        tokens[offsets] = counts
        if seen.all():
            self._ready.append((index, float(np.sum(sums)), float(np.sum(tokens))))
            self._closed.add(index)
            del self._open[index]


_CURRICULUM_VERSION: Final = 1  # raise it when the same curriculum gives another sequence
Shares = list[tuple[float, dict[int, float]]]
"""For each phase its share of the budget and, by domain number, each domain's share of it. Both add up to 1."""


class CurriculumOrder:
    """The rows of a whole budget, in order; the digest is that of the rows themselves."""

    def __init__(
        self, rows: npt.NDArray[np.int64], tokens_digest: str = "", phase_starts: Sequence[int] = ()
    ) -> None:
        """Keep the rows.

        Args:
            rows: Shape ``(budget,)``.
            tokens_digest: Digest of the token set the rows belong to.
            phase_starts: Positions at which later phases begin; not part of the digest.
        """
        self._rows = rows
        self.phase_starts = phase_starts
        digest = hashlib.sha256(f"sweepft-curriculum-{_CURRICULUM_VERSION}:{tokens_digest}:".encode())
        digest.update(rows.astype("<i8").tobytes())
        self.digest = digest.hexdigest()

    def indices(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Row numbers at positions ``[start, stop)``.

        Raises:
            ValueError: Unless ``0 <= start <= stop <= budget``.
        """
        if not 0 <= start <= stop <= len(self._rows):
            raise ValueError(f"positions must lie in [0, {len(self._rows)}], got [{start}, {stop})")
        return self._rows[start:stop]


def sample_order(tokens: TokenSet, seed: int, curriculum: Curriculum | None, budget_samples: int) -> Order:
    """The order in which a trial takes its samples.

    Stacked domains of equal weight give a `SampleOrder`, whatever else the curriculum holds.

    Raises:
        ValueError: If a phase names a domain without rows, or all weights of a phase are 0.
    """
    shares = None if curriculum is None else phase_shares(curriculum, tokens.rows_by_domain)
    if shares is None:
        return SampleOrder(len(tokens), seed, tokens.digest)
    rows = phased_rows(tokens.domains, shares, budget_samples, seed)
    return CurriculumOrder(rows, tokens.digest, phase_ends(shares, budget_samples)[:-1])


def phase_shares(curriculum: Curriculum, rows: Mapping[str, int]) -> Shares | None:
    """A curriculum as shares of the budget, or None where all rows are equal.

    Args:
        curriculum: Of the trial.
        rows: Rows by domain, in the order of the domains' numbers.
    Raises:
        ValueError: See `sample_order`.
    """
    weights = [curriculum.mixture.get(name, 1.0) for name in rows]
    mass = [weight * count for weight, count in zip(weights, rows.values(), strict=True)]
    if curriculum.strategy == "stacked":
        return None if len(set(weights)) == 1 else [(1.0, _parts(mass, range(len(mass))))]
    number = {name: i for i, name in enumerate(rows)}
    groups = [[number[name] for name in phase.domains if name in number] for phase in curriculum.phases]
    own = [sum(mass[i] for i in group) for group in groups]
    open_mass = sum(m for m, phase in zip(own, curriculum.phases, strict=True) if phase.share is None)
    left = 1.0 - sum(phase.share or 0.0 for phase in curriculum.phases)
    found: Shares = []
    seen: set[int] = set()
    for phase, group, m in zip(curriculum.phases, groups, own, strict=True):
        parts = _parts(mass, group)
        earlier = sorted(i for i in seen - set(group) if mass[i] > 0)
        if curriculum.replay and earlier:
            parts = {i: (1.0 - curriculum.replay) * part for i, part in parts.items()}
            parts |= {i: curriculum.replay * part for i, part in _parts(mass, earlier).items()}
        found.append((phase.share if phase.share is not None else left * m / open_mass, parts))
        seen |= set(group)
    return found


def _parts(mass: Sequence[float], group: Sequence[int]) -> dict[int, float]:
    total = sum(mass[i] for i in group)
    if total <= 0:
        raise ValueError("a phase needs rows of its domains, and a weight above 0 for one of them")
    return {i: mass[i] / total for i in group if mass[i] > 0}


def phase_ends(phases: Sequence[tuple[float, Mapping[int, float]]], samples: int) -> list[int]:
    """The position at which each phase ends; the last one is the budget."""
    ends = np.floor(np.cumsum([share for share, _ in phases]) * samples + 0.5).astype(np.int64).tolist()
    return [*ends[:-1], samples]


def phased_rows(
    domains: np.ndarray, phases: Sequence[tuple[float, Mapping[int, float]]], samples: int, seed: int
) -> np.ndarray:
    """Row numbers of the whole budget, in order: shape (samples,), int64.

    Args:
        domains: Domain number of each row.
        phases: Share of the samples, and of them by domain number the share of each domain.
        samples: The budget.
        seed: Seed of the passes and of the interleaving of domains.
    """
    ends = phase_ends(phases, samples)
    found = np.empty(samples, dtype=np.int64)
    taken: dict[int, int] = {}
    start = 0
    for number, ((_, shares), end) in enumerate(zip(phases, ends, strict=True)):
        domain_at = interleaved(end - start, shares, [seed, number])
        for domain in shares:
            places = np.flatnonzero(domain_at == domain)
            begin = taken.get(domain, 0)
            rows = np.flatnonzero(domains == domain)
            found[start + places] = passes(rows, begin, len(places), seed, domain)
            taken[domain] = begin + len(places)
        start = end
    return found


def interleaved(count: int, shares: Mapping[int, float], seeds: Sequence[int]) -> np.ndarray:
    """The domain of each of `count` samples: exact quotas, each domain spread evenly with a seeded jitter."""
    names = sorted(shares)
    wanted = np.array([shares[name] for name in names]) * count
    quotas = np.floor(wanted).astype(np.int64)
    quotas[np.argsort(quotas - wanted, kind="stable")[: count - quotas.sum()]] += 1
    times = []
    for name, quota in zip(names, quotas, strict=True):
        bits = np.random.PCG64(np.random.SeedSequence([*seeds, name + 1, 2])).random_raw(int(quota))
        times.append((np.arange(quota) + (bits >> np.uint64(11)) * 2.0**-53) / max(1, int(quota)))
    order: np.ndarray = np.repeat(names, quotas)[np.argsort(np.concatenate(times), kind="stable")]
    return order


def passes(rows: np.ndarray, start: int, count: int, seed: int, domain: int) -> np.ndarray:
    """Rows at places [start, start + count) of the domain's stream: a new permutation for every pass."""
    first, last = start // len(rows), (start + count + len(rows) - 1) // len(rows)
    whole = [permutation(len(rows), [seed, epoch, domain + 1, 1]) for epoch in range(first, last)]
    if not whole:
        return rows[:0]
    found: np.ndarray = rows[np.concatenate(whole)[start - first * len(rows) :][:count]]
    return found


EXPORTED: Final = (permutation, phase_ends, phased_rows, interleaved, passes)
"""The functions that `phased_rows` needs outside sweepft, for ``best/train.py``."""
