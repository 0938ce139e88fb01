"""A sweep's clock without a sweep: recorded runs on so many slots, stopped by whoever judges.

Runs start in the given order as slots come free, and report at their recorded times; what a judge stops costs
no more. Judges see only what has been reported by then, in the order in which it would have been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sweepft.replay.curves import Run, Study
from sweepft.replay.slots import run_on_slots

__all__ = ["Decision", "Judge", "Outcome", "RunOutcome", "replay_study"]

Decision = Literal["continue", "stop", "pause"]


class Judge(Protocol):
    """Who decides; a fresh one for each replay."""

    def marks(self, study: Study) -> Sequence[float]:
        """Progress values at which runs must report, besides every 5% of the budget."""
        ...

    def start(self, run: Run) -> None:
        """A run starts."""
        ...

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Rows ``start`` to ``stop`` (not included) have been reported; the run is not over."""
        ...

    def finish(self, run: Run, start: int) -> None:
        """The run ended by itself, with its rows from ``start`` on."""
        ...

    def resume(self, free: int) -> Sequence[str]:
        """Paused runs that may go on now, in order; so many slots are free."""
        ...

    def reason(self, run_id: str) -> str:
        """Why a run was stopped."""
        ...


@dataclass
class RunOutcome:
    """What became of one run: seconds spent on it, and whether it reached its end, at what time.

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


def replay_study(study: Study, judge: Judge, *, slots: int, order: Sequence[int]) -> Outcome:
    """Replay a study's runs in this order.

    Args:
        study: The runs.
        judge: A fresh judge.
        slots: Runs at the same time.
        order: Indices into ``study.runs``: which starts first.
    """
    marks = judge.marks(study)
    points = {study.runs[i].run_id: study.report_points(study.runs[i], marks) for i in order}
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
            judge.start(by_name[name])
        free -= 1
        return name, _until_next(by_name[name], at[name], points[name])

    def report(name: str, clock: float) -> float | None:
        nonlocal free
        run, start, outcome = by_name[name], at[name], outcomes[name]
        stop = at[name] = next(p for p in points[name] if p > start)
        outcome.spent = float(run.seconds[stop - 1])
        if stop == len(run.progress):
            judge.finish(run, start)
            outcome.status, outcome.finished_at = "completed", clock
            decision: Decision = "stop"
        else:
            decision = judge.report(run, start, stop)
            if decision == "stop":
                outcome.status, outcome.reason = "stopped", judge.reason(name)
        free += decision != "continue"
        resumable.extend(n for n in judge.resume(free) if n not in resumable)
        return _until_next(run, stop, points[name]) if decision == "continue" else None

    makespan = run_on_slots(slots, begin, report)
    for name, outcome in outcomes.items():
        if outcome.status == "left":
            outcome.reason = f"paused, and never resumed: {judge.reason(name)}"
    return Outcome(outcomes, makespan)


def _until_next(run: Run, start: int, points: Sequence[int]) -> float:
    stop = next(p for p in points if p > start)
    before = float(run.seconds[start - 1]) if start else 0.0
    return float(run.seconds[stop - 1]) - before
