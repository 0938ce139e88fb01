"""A virtual clock over so many slots: what a sweep's driver would see, without anything running.

One idea: a slot holds one piece of work, which reports now and then; the clock jumps from report to report. Replays of
recorded runs and simulated sweeps both run on it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeVar

__all__ = ["run_on_slots"]

Work = TypeVar("Work")


def run_on_slots(
    slots: int,
    begin: Callable[[float, int], tuple[Work, float] | None],
    report: Callable[[Work, float], float | None],
) -> float:
    """Keep the slots at work until nothing is left to do.

    Args:
        slots: Pieces of work at the same time.
        begin: Given the time and a free slot: work to do there and the seconds until its first report, or None when
            there is nothing to do now (asked again after the next report, for each free slot).
        report: Given work and the time, a report is due: the seconds until the next one, or None when the work is over.
    Returns:
        The time at which the last slot fell idle. Reports due at the same time come in the order in which they were
        announced.
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
