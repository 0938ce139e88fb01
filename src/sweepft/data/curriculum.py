"""Which sample comes when where domains are weighted or come in phases.

The idea to keep in mind: the rows of a domain are an endless stream of reshuffled passes, and every phase
interleaves such streams evenly, by exact quotas. A stream goes on where the phase before left it, so that a row comes
back only when all others of its domain have come. The functions from `phased_rows` on need numpy alone: an exported
``train.py`` holds them by their source (`EXPORTED`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sweepft.data.cache import TokenSet
from sweepft.data.order import Order, SampleOrder, permutation
from sweepft.spec import Curriculum

__all__ = ["EXPORTED", "CurriculumOrder", "Shares", "phase_shares", "phased_rows", "sample_order"]

_VERSION: Final = 1  # change it whenever the same curriculum would give another sequence

Shares = list[tuple[float, dict[int, float]]]
"""A phase each: its share of the budget, and of it the share of each domain by number. Both add up to 1."""


class CurriculumOrder:
    """The rows of a whole budget, in order; the digest is that of the rows themselves."""

    def __init__(self, rows: npt.NDArray[np.int64], tokens_digest: str = "") -> None:
        """Keep the rows.

        Args:
            rows: Shape ``(budget,)``.
            tokens_digest: Digest of the token set the rows belong to.
        """
        self._rows = rows
        digest = hashlib.sha256(f"sweepft-curriculum-{_VERSION}:{tokens_digest}:".encode())
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

    Stacked domains of equal weight are one seeded permutation a pass, whatever else is said.

    Raises:
        ValueError: If a phase names a domain without rows, or all weights of a phase are 0.
    """
    shares = None if curriculum is None else phase_shares(curriculum, tokens.rows_by_domain)
    if shares is None:
        return SampleOrder(len(tokens), seed, tokens.digest)
    return CurriculumOrder(phased_rows(tokens.domains, shares, budget_samples, seed), tokens.digest)


def phase_shares(curriculum: Curriculum, rows: Mapping[str, int]) -> Shares | None:
    """A curriculum in numbers, or None where it is all rows alike.

    Args:
        curriculum: What was asked for.
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


def phased_rows(
    domains: np.ndarray, phases: Sequence[tuple[float, Mapping[int, float]]], samples: int, seed: int
) -> np.ndarray:
    """Row numbers of the whole budget, in order: shape (samples,), int64.

    Args:
        domains: Domain number of each row.
        phases: Share of the samples, and of them by domain number the share of each domain.
        samples: The budget.
        seed: Of the passes and of how the domains interleave.
    """
    ends = np.floor(np.cumsum([share for share, _ in phases]) * samples + 0.5).astype(np.int64)
    ends[-1] = samples
    found = np.empty(samples, dtype=np.int64)
    taken: dict[int, int] = {}
    start = 0
    for number, ((_, shares), end) in enumerate(zip(phases, ends, strict=True)):
        domain_at = interleaved(int(end) - start, shares, [seed, number])
        for domain in shares:
            places = np.flatnonzero(domain_at == domain)
            begin = taken.get(domain, 0)
            rows = np.flatnonzero(domains == domain)
            found[start + places] = passes(rows, begin, len(places), seed, domain)
            taken[domain] = begin + len(places)
        start = int(end)
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


EXPORTED: Final = (permutation, phased_rows, interleaved, passes)
"""What `phased_rows` takes to run without sweepft."""
