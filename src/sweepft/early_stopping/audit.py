"""Audits: flagged trials that are trained to completion, to measure how often the rule is wrong.

Two rates are kept apart. P(flagged | top): the share of the top trials that the rule stops; the calibrated rule bounds
it. P(top | flagged): the share of flagged trials that end in the top fraction; audits measure it. Which trials are
audited is fixed by a hash before anything is known of them. The interval is read at a few fixed counts only, with the
error spread evenly over them, so that looking often does not invalidate it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

LOOKS: Final = (14, 29, 59, 119, 239)  # numbers of audits at which the status may change


def audit_rate(rule: str, audit: float | None) -> float:
    """The share of flagged trials to audit: as given, else 0.05 for ``calibrated`` and 0 for other rules."""
    return audit if audit is not None else 0.05 if rule == "calibrated" else 0.0


def audit_weight(audited: bool | None, audit: float) -> float:
    """How many trials a completed one stands for in a fair sample of all.

    Args:
        audited: None for a trial that was never flagged, else whether it was audited (or paused and resumed).
        audit: The rate of audits.

    Returns:
        1 / audit for an audited trial: it stands for all flagged ones, those that resumed after a pause among them,
        which therefore count 0. 1 for every other trial, and where nothing is audited.
    """
    if audited is None or audit <= 0:
        return 1.0
    return 1.0 / audit if audited else 0.0


def top_edge(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The value from which on a trial is in the top fraction: the best ``share`` of the weight lies at or above it.

    Args:
        values: Final objectives, larger is better.
        weights: How many trials each stands for.
        share: The top fraction, in (0, 1).

    Returns:
        One of the values; infinity without any.
    """
    order = np.argsort(-np.asarray(values, dtype=float), kind="stable")
    seen = np.cumsum(np.asarray(weights, dtype=float)[order])
    reached = np.nonzero((seen > 0) & (seen >= share * math.fsum(weights) - 1e-9))[0]
    return float(values[order[reached[0]]]) if len(reached) else math.inf


def is_audited(seed: int, trial_id: str, rate: float) -> bool:
    """Whether a trial is audited if flagged: drawn from seed and name, before its first step."""
    digest = hashlib.sha256(f"{seed}:{trial_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < rate


def _binomial_cdf(k: int, n: int, p: float) -> float:
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
    base = math.lgamma(n + 1)
    logs = (
        base - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    )
    return min(1.0, math.fsum(math.exp(x) for x in logs))


def clopper_pearson(bad: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a binomial rate (Clopper and Pearson, 1934).

    Args:
        bad: Successes (audited trials that ended in the top fraction), 0 <= bad <= n.
        n: Trials.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Lower and upper bound in [0, 1]; (0, 1) when n is 0.

    Raises:
        ValueError: If bad is negative or larger than n, or confidence is not in (0, 1).
    """
    if not 0 <= bad <= n:
        raise ValueError(f"bad: must lie between 0 and n = {n} (got {bad})")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must lie in (0, 1) (got {confidence})")
    tail = (1 - confidence) / 2

    def solve(k: int, target: float) -> float:
        """The p at which P(X <= k) falls to ``target``."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _binomial_cdf(k, n, middle) > target else (low, middle)
        return (low + high) / 2

    lower = 0.0 if bad == 0 else solve(bad - 1, 1 - tail)
    upper = 1.0 if bad == n else solve(bad, tail)
    return lower, upper


@dataclass(frozen=True)
class AuditResult:
    """What audits say about P(top | flagged), those of prior sweeps included.

    Attributes:
        audited: Audited trials that have ended.
        top: Those of them that ended in the top fraction.
        rate: top / audited; None before the first.
        interval: 95% Clopper-Pearson interval of the rate as of now; right for one look.
        looked_at: Number of audits that the status rests on: the last count in `LOOKS` reached, else 0.
        status: ``certified``, ``refuted`` (from then on the rule stops no trial) or ``uncertified``.
    """

    audited: int
    top: int
    rate: float | None
    interval: tuple[float, float]
    looked_at: int
    status: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "interval": list(self.interval)}


def audit_result(outcomes: list[bool], max_false_discovery_rate: float) -> AuditResult:
    """Judge the rule by its completed audits, in order of completion.

    Args:
        outcomes: Whether each audited trial ended in the top fraction.
        max_false_discovery_rate: The largest acceptable rate of wrong stops.
    """
    n, top = len(outcomes), sum(outcomes)
    looked, status = 0, "uncertified"
    confidence = 1 - 0.05 / len(LOOKS)
    for look in LOOKS:
        if look <= n:
            looked = look
            low, high = clopper_pearson(sum(outcomes[:look]), look, confidence)
            status = (
                "refuted"
                if low > max_false_discovery_rate
                else "certified"
                if high <= max_false_discovery_rate
                else "uncertified"
            )
    return AuditResult(n, top, top / n if n else None, clopper_pearson(top, n), looked, status)
