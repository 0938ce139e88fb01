"""A sweep's clock over recorded runs: so many slots, and a policy that stops runs.

Runs start in the given order as slots come free, and report at their recorded times; what a policy stops costs no more.
A policy sees only what has been reported by then, in the order in which a live sweep would have reported it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from sweepft.replay.curves import Run, Study
from sweepft.replay.policies import Decision, Policy

Work = TypeVar("Work")


def run_on_slots(
    slots: int,
    begin: Callable[[float, int], tuple[Work, float] | None],
    report: Callable[[Work, float], float | None],
) -> float:
    """Run work on slots until nothing is left to do; returns the time at which the last slot fell idle.

    Reports due at the same time come in the order in which they were announced.

    Args:
        slots: Pieces of work at the same time.
        begin: Given the time and a free slot: work to do there and the seconds until its first report, or None when
            there is nothing to do now (asked again after the next report, for each free slot).
        report: Given work and the time, a report is due: the seconds until the next one, or None when the work is over.
    """
    clock, serial = 0.0, 0
    free = list(range(slots))
    events: list[tuple[float, int, int, Work]] = []
    while True:
        while free:
            begun = begin(clock, free[0])
            if begun is None:
                break
            serial += 1
            heapq.heappush(events, (clock + begun[1], serial, heapq.heappop(free), begun[0]))
        if not events:
            return clock
        clock, _, slot, work = heapq.heappop(events)
        wait = report(work, clock)
        if wait is None:
            heapq.heappush(free, slot)
        else:
            serial += 1
            heapq.heappush(events, (clock + wait, serial, slot, work))


@dataclass
class RunOutcome:
    """What happened to one run.

    Attributes:
        spent: Seconds of its recorded time that were used.
        status: ``completed``, ``stopped`` or ``left`` (paused and never resumed).
        finished_at: Clock time of its end; None when it was stopped.
        reason: Why it was stopped.
    """

    spent: float = 0.0
    status: Literal["completed", "stopped", "left"] = "left"
    finished_at: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """A replay of one study: runs by name, and when the last slot fell idle."""

    runs: dict[str, RunOutcome]
    makespan: float


def replay_study(study: Study, policy: Policy, *, slots: int, order: Sequence[int]) -> Outcome:
    """Replay a study's runs in this order.

    Args:
        study: The runs.
        policy: A fresh one.
        slots: Runs at the same time.
        order: Indices into ``study.runs``: which starts first.
    """
    points = {study.runs[i].run_id: study.report_points(study.runs[i], policy.rungs) for i in order}
    by_name = {study.runs[i].run_id: study.runs[i] for i in order}
    outcomes = {name: RunOutcome() for name in by_name}
    waiting: deque[str] = deque(by_name)
    resumable: deque[str] = deque()
    at = dict.fromkeys(by_name, 0)  # rows reported so far
    begun: set[str] = set()
    free = slots

    def begin(clock: float, slot: int) -> tuple[str, float] | None:
        nonlocal free
        if not (resumable or waiting):
            return None
        name = resumable.popleft() if resumable else waiting.popleft()
        if name not in begun:
            begun.add(name)
            policy.start(by_name[name])
        free -= 1
        return name, _until_next(by_name[name], at[name], points[name])

    def report(name: str, clock: float) -> float | None:
        nonlocal free
        run, start, outcome = by_name[name], at[name], outcomes[name]
        stop = at[name] = next(p for p in points[name] if p > start)
        outcome.spent = float(run.seconds[stop - 1])
        if stop == len(run.progress):
            policy.finish(run, start)
            outcome.status, outcome.finished_at = "completed", clock
            decision: Decision = "stop"
        else:
            decision = policy.report(run, start, stop)
            if decision == "stop":
                outcome.status, outcome.reason = "stopped", policy.reason(name)
        free += decision != "continue"
        resumable.extend(n for n in policy.resume(free) if n not in resumable)
        return _until_next(run, stop, points[name]) if decision == "continue" else None

    makespan = run_on_slots(slots, begin, report)
    for name, outcome in outcomes.items():
        if outcome.status == "left":
            outcome.reason = f"paused, not resumed: {policy.reason(name)}"
    return Outcome(outcomes, makespan)


def _until_next(run: Run, start: int, points: Sequence[int]) -> float:
    stop = next(p for p in points if p > start)
    before = float(run.seconds[start - 1]) if start else 0.0
    return float(run.seconds[stop - 1]) - before
