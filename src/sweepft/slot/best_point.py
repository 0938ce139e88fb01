"""The best evaluation of a trial so far (``objective.at: best``), and whether its patience is used up.

A trial's evaluations are compared as completed trials are: those that meet the bounds of ``search.subject_to`` come
first, then the better objective. Of equal ones the earlier remains. Where the task of the objective, or a bounded one,
is not measured, there is nothing to compare, and patience does not count.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sweepft.ledger import Objective, Row, TrialState, costs_of, violation


@dataclass(frozen=True)
class BestPoint:
    """An evaluation that is the best of its trial so far.

    Attributes:
        step: Optimizer steps there.
        samples: Samples there.
        objective: As measured.
        losses: By validation set, and costs by task.
        since: Evaluations after it, none of which was better.
        stderr: Standard error of a task's objective; None for a loss.
    """

    step: int
    samples: int
    objective: float
    losses: Mapping[str, float]
    since: int = 0
    stderr: float | None = None

    def fields(self) -> dict[str, Any]:
        """As a result has it: `sweepft.early_stopping.value_so_far` reads them."""
        return {
            "best_objective": self.objective,
            "best_stderr": self.stderr,
            "best_sets": {name: {"loss": loss} for name, loss in self.losses.items()},
            "best_step": self.step,
            "best_is_new": self.since == 0,
        }


def better_of(
    best: BestPoint | None, found: BestPoint, limits: Mapping[str, float], objective: Objective
) -> BestPoint | None:
    """The best point after another evaluation; None while no objective was finite.

    Args:
        best: Of the evaluations before.
        found: The new one.
        limits: Largest loss allowed by validation set.
        objective: Which way it is good.
    """
    if not math.isfinite(found.objective):
        return None if best is None else replace(best, since=best.since + 1)
    if best is None or _order(found, limits, objective) < _order(best, limits, objective):
        return found
    return replace(best, since=best.since + 1)


def _order(point: BestPoint, limits: Mapping[str, float], objective: Objective) -> tuple[float, float]:
    return violation(point.losses, limits), objective.cost(point.objective)


def out_of_patience(best: BestPoint | None, patience: int | None) -> str | None:
    """Why a trial ends that has not become better in ``patience`` evaluations, as a sentence; None where it goes on."""
    if best is None or patience is None or best.since < patience:
        return None
    evaluations = "evaluation" if best.since == 1 else "evaluations"
    return (
        f"{best.since} {evaluations} without a better one than {best.objective:.4g} at step {best.step} "
        "(early_stop.patience)"
    )


def best_point_of(trial: TrialState, bounded: Collection[str] = ()) -> BestPoint | None:
    """The best point of a trial as the ledger has it; None while no evaluation could be one.

    Args:
        trial: Of the ledger.
        bounded: Names of sets and tasks with a bound: an evaluation without one of them is not compared.
    """

    def is_compared(evaluated: Row) -> bool:
        known = {*evaluated["sets"], *(evaluated.get("tasks") or ())}
        return evaluated["objective"] is not None and known.issuperset(bounded)

    row = trial.counted
    if row is None or not is_compared(row):
        return None
    since = sum(later["step"] > row["step"] and is_compared(later) for later in trial.evals)
    measured = costs_of(row["sets"], row.get("tasks") or {})
    losses = {name: float(cost) for name, cost in measured.items() if cost is not None}
    stderr = (row.get("task") or {}).get("stderr")
    return BestPoint(row["step"], int(row["samples_seen"]), float(row["objective"]), losses, since, stderr)
