"""The divergence check: which trials are ended because their training loss has blown up, whatever the rule.

A rising loss is no proof. Later phases of a curriculum bring new data, the loss of a policy or an annealed bound rises
by nature, and some frameworks log 0 or NaN where nothing was measured. So the loss is compared within a phase only, has
to rise by a factor and by an amount, and never outranks the objective: a trial whose objective improves or leads goes
on. Where most of the trials that have come as far show the same, the data or the loss explains it, and the check stands
down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import Any, Final, Literal, Protocol

POINTS: Final = 3
"""Losses in a row that must be too high, or not finite."""
SUSTAINED: Final = 0.02
"""Share of the budget over which they must be too high."""
FLOOR: Final = 0.5
"""A loss is too high above twice its start, and above its start by this much."""
_BLOWN_UP: Final = (
    9.0,
    5.0,
)  # above the start by nine times the start, and by this much: no healthy loss does that
_START: Final = 3  # losses: their median is where a phase began
_SAMPLE: Final = 200  # trials compared with, the latest: the cost of a decision must not grow with the sweep


@dataclass(slots=True)
class LossWatch:
    """What the check keeps of one trial: the losses of its current phase, and its objectives before and since a rise.

    Attributes:
        first: The first losses of the phase. Exact zeros before any other loss count as not measured.
        high: Losses in a row that were too high; ``high_since`` is the progress at the first of them.
        blown_up: How many in a row of these were far too high.
        elevated: Whether the last loss had come half of the way to too high.
        bad: Losses in a row that were reported and not finite; ``bad_since`` is the progress at the first of them.
        longest_gap: The longest such row after which a finite loss came: there, NaN means "not measured".
        finite: Whether a finite loss was ever reported.
        flagged: Whether the loss ever met the condition, whether the trial was ended or not.
        span: Smallest and largest objective so far; ``before`` is the span when the rise began.
        since: First, last, smallest and largest objective since the rise began; None without any.
        objective_at: Progress of the last objective.
        interval: The longest progress without an objective so far.
    """

    first: list[float] = field(default_factory=list)
    high: int = 0
    high_since: float | None = None
    blown_up: int = 0
    elevated: bool = False
    bad: int = 0
    bad_since: float | None = None
    longest_gap: int = 0
    finite: bool = False
    flagged: bool = False
    span: tuple[float, float] | None = None
    before: tuple[float, float] | None = None
    since: tuple[float, float, float, float] | None = None
    objective_at: float | None = None
    interval: float = 0.0

    @property
    def start(self) -> float:
        """Median of the first losses, of which there must be one."""
        return sorted(self.first)[len(self.first) // 2]

    def begin_phase(self) -> None:
        """Losses from here on are compared with each other, not with those before."""
        self.first, self.high, self.blown_up, self.elevated = [], 0, 0, False

    def add_loss(self, loss: float, progress: float) -> None:
        """A loss was reported; infinity stands for any value that is not finite."""
        if not math.isfinite(loss):
            self.bad_since = self.bad_since if self.bad else progress
            self.bad += 1
            return
        self.longest_gap, self.bad, self.finite = max(self.longest_gap, self.bad), 0, True
        if not self.first and loss == 0.0:
            return
        if len(self.first) < _START:
            self.first.append(loss)
        start = self.start
        allowed = max(abs(start), FLOOR)
        self.elevated = loss > start + 0.5 * allowed
        if loss <= start + allowed:
            self.high = self.blown_up = 0
            return
        if not self.high:
            self.high_since, self.before, self.since = progress, self.span, None
        self.high += 1
        factor, amount = _BLOWN_UP
        self.blown_up = self.blown_up + 1 if loss > start + max(factor * abs(start), amount) else 0

    def add_objective(self, value: float, progress: float) -> None:
        """A finite objective was reported."""
        low, high = self.span or (value, value)
        self.interval = max(self.interval, progress - (self.objective_at or 0.0))
        self.span, self.objective_at = (min(low, value), max(high, value)), progress
        if self.high:
            first, _, low, high = self.since or (value, value, value, value)
            self.since = (first, value, min(low, value), max(high, value))

    def rising(self, budget: float, progress: float) -> bool:
        """Whether the loss has been too high for long enough."""
        return self.high >= POINTS and progress - (self.high_since or 0.0) >= SUSTAINED * budget

    def improves(self, sign: float) -> bool:
        """Whether the best objective was measured since the loss rose; ``sign`` times it, larger is better."""
        if self.since is None:
            return False
        first, last, *ends = self.since
        if self.before is not None:
            return max(sign * x for x in ends) > max(sign * x for x in self.before)
        return sign * last > sign * first

    def measured_since(self, progress: float | None) -> bool:
        """Whether a finite objective was reported at or after this progress."""
        return self.objective_at is not None and progress is not None and self.objective_at >= progress

    def to_state(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LossWatch:
        """The inverse of `to_state`."""
        known = {f.name: state[f.name] for f in fields(cls)}
        for name in ("span", "before", "since"):
            known[name] = None if known[name] is None else tuple(known[name])
        return cls(**known)


class Watched(Protocol):
    """A trial as the check sees it."""

    @property
    def trial_id(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def watch(self) -> LossWatch: ...  # noqa: D102
    @property
    def last_progress(self) -> float: ...  # noqa: D102
    @property
    def last_metric(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Finding:
    """What the check makes of a trial whose loss has blown up.

    Attributes:
        verdict: ``end`` the trial; ``spare`` it, because of its objective or until others have come as far;
            ``stand_down``, because most trials are like it.
        reason: A sentence.
        alike: Trials that show the same, itself among them.
        compared: Trials that have come as far, itself among them.
    """

    verdict: Literal["end", "spare", "stand_down"]
    reason: str
    alike: int = 1
    compared: int = 1


def examine(
    trial: Watched, others: Iterable[Watched], *, budget: float, sign: float, leads: bool
) -> Finding | None:
    """Look at a running trial that has just reported.

    Args:
        trial: The trial.
        others: All other trials, the latest first.
        budget: A full trial, in units of progress.
        sign: 1 or -1: times the objective, larger is better.
        leads: Whether its objective is the best at its last rung.

    Returns:
        None while its loss is in order.
    """
    watch = trial.watch
    vanished = watch.bad >= POINTS
    if not vanished and not watch.rising(budget, trial.last_progress):
        return None
    peers = list(islice(others, _SAMPLE))
    if vanished and watch.bad <= 2 * max([watch.longest_gap, *(p.watch.longest_gap for p in peers)]):
        return None
    watch.flagged = True
    since = watch.bad_since if vanished else watch.high_since
    assert since is not None
    words = (
        f"training loss is not finite for the last {watch.bad} points"
        if vanished
        else f"training loss above twice its start ({watch.start:.4g}) for the last {watch.high} points"
    )
    if _objective_speaks_for(trial, peers, vanished=vanished, since=since, sign=sign, leads=leads):
        return Finding("spare", words)
    compared = [p for p in peers if p.last_progress >= since and (p.watch.finite or p.watch.bad)]
    alike = 1 + sum(p.watch.flagged or p.watch.elevated or p.watch.bad > 0 for p in compared)
    if 2 * alike > len(compared) + 1 and compared:
        counts = f"{alike} of {len(compared) + 1} trials that have come as far"
        return Finding("stand_down", f"{words}, as of {counts}", alike, len(compared) + 1)
    if not compared and not _alone_is_enough(trial, peers, budget, vanished=vanished, since=since):
        return Finding("spare", words)
    return Finding("end", words, alike, len(compared) + 1)


def _objective_speaks_for(
    trial: Watched, peers: Sequence[Watched], *, vanished: bool, since: float, sign: float, leads: bool
) -> bool:
    """Whether the objective improves or leads. One from before the rise counts only while the rise is moderate."""
    watch = trial.watch
    current = watch.measured_since(since)
    if vanished:
        return current
    if watch.improves(sign):
        return True
    if not math.isfinite(trial.last_metric) or (not current and watch.blown_up >= POINTS):
        return False
    known = [sign * p.last_metric for p in peers if math.isfinite(p.last_metric)]
    return leads or (bool(known) and sign * trial.last_metric >= max(known))


def _alone_is_enough(
    trial: Watched, peers: Sequence[Watched], budget: float, *, vanished: bool, since: float
) -> bool:
    """Whether a trial is ended although no other has come as far: then it was never seen that others do better."""
    watch = trial.watch
    if watch.blown_up >= POINTS:
        return True
    if any(p.status == "running" and math.isfinite(p.last_progress) for p in peers):
        return False  # they will come as far soon
    if vanished:  # without any finite loss before, NaN may stand for "not measured"
        return watch.finite or trial.last_progress - since >= SUSTAINED * budget
    due = watch.objective_at is None or trial.last_progress > watch.objective_at + watch.interval
    return due and not watch.measured_since(since)
