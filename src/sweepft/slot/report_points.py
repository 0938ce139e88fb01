"""When a trial reports: at every rung, and often enough in between to follow it live."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweepft.early_stopping import parse_rungs, rung_steps

_REPORTS_PER_TRIAL = 20
_STEPS_PER_REPORT = (
    3  # at least, between rungs: a report costs some milliseconds, which only very fast trials notice
)


@dataclass(frozen=True)
class ReportPoint:
    """A point of a trial at which it reports.

    Attributes:
        samples: Samples seen there.
        rung: Nominal fraction of the budget where validation loss is due, None at points in between.
    """

    samples: int
    rung: float | None


def report_points(budget_samples: int, rungs: Sequence[float], batch_size: int) -> list[ReportPoint]:
    """Report points of a trial, ascending; the last one is the whole budget and has rung 1.0.

    Of several points in one optimizer step the last rung remains.
    """
    steps = math.ceil(budget_samples / batch_size)
    reports = max(1, min(_REPORTS_PER_TRIAL, steps // _STEPS_PER_REPORT))
    rung_at: dict[int, float | None] = {
        math.ceil(math.ceil(budget_samples * i / reports) / batch_size): None for i in range(1, reports)
    }
    at_rungs = rung_steps(parse_rungs(sorted(rungs)), batch_size=batch_size, budget=budget_samples)
    rung_at |= {step: rung.fraction for rung, step in at_rungs.items()}
    rung_at[steps] = 1.0
    return [ReportPoint(min(budget_samples, step * batch_size), rung_at[step]) for step in sorted(rung_at)]
