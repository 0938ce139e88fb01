"""When a trial reports: at every early-stop window, and often enough to see it live."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_REPORTS_PER_TRIAL = 20


_STEPS_PER_REPORT = 3


"""At least, between rungs: a report costs some milliseconds, which only very fast trials notice."""


@dataclass(frozen=True)
class ReportPoint:
    """A point of a trial at which it reports.

    Attributes:
        samples: Samples to have seen.
        window: Nominal fraction of the budget where held-out loss is due, None at points in between.
    """

    samples: int
    rung: float | None


def report_points(budget_samples: int, rungs: Sequence[float], batch_size: int) -> list[ReportPoint]:
    """Report points of a trial, ascending; the last one is the whole budget and has window 1.0.

    Points that fall into the same optimizer step become one: the later window counts.
    """
    steps = math.ceil(budget_samples / batch_size)
    reports = max(1, min(_REPORTS_PER_TRIAL, steps // _STEPS_PER_REPORT))
    fractions: dict[int, float | None] = {
        math.ceil(budget_samples * i / reports): None for i in range(1, reports)
    }
    fractions.update({math.ceil(budget_samples * w): w for w in sorted(rungs)})
    fractions[budget_samples] = 1.0
    by_step: dict[int, ReportPoint] = {}
    for samples in sorted(fractions):
        seen = min(budget_samples, math.ceil(samples / batch_size) * batch_size)
        rung = fractions[samples]
        earlier = by_step.get(seen)
        by_step[seen] = ReportPoint(seen, rung if rung is not None or earlier is None else earlier.rung)
    return [by_step[seen] for seen in sorted(by_step)]
