"""What the sweep optimised, and of a task: on how many items, with what noise, and what its measurement took."""

from __future__ import annotations

from typing import Any

from sweepft.ledger import SweepState, TrialState, task_cost, task_seconds
from sweepft.report.format import duration, percent


def objective_summary(sweep: SweepState, rungs: list[float]) -> dict[str, Any]:
    """The objective of a sweep.

    Args:
        sweep: The sweep.
        rungs: Its rungs, as fractions of the budget.

    Returns:
        ``name`` (``validation loss``, ``gsm8k exact_match``), ``unit`` (nats per target token, None of a task),
        ``mode`` (``min`` or ``max``), ``noise`` (what its standard error is over) and ``task``: None for the validation
        loss, else ``name, metric, items, seconds`` (of one measurement, median), ``share`` (of the time of trials that
        completed), ``max_share``, ``left_out`` (rungs at which later trials are not measured), ``from_trial`` (the
        first of these) and ``text``.
    """
    objective = sweep.objective
    found: dict[str, Any] = {
        "name": objective.name,
        "unit": None if objective.task else "nats per target token",
        "mode": objective.mode,
        "noise": "items of the task" if objective.task else "validation samples",
        "task": None,
    }
    if objective.task is None:
        return found
    cost, rows = task_cost(sweep.search_trials), [row for t in sweep.trials.values() for row in t.evals]
    items = next((row["task"]["items"] for row in rows if row.get("task")), None)
    chosen = next((t for t in sweep.search_trials if t.objective_rungs is not None), None)
    kept = None if chosen is None else chosen.objective_rungs
    task = {
        "name": objective.task,
        "metric": objective.metric,
        "items": items,
        "seconds": None if cost is None else cost[0],
        "share": _share(sweep.search_trials),
        "max_share": objective.max_share,
        "left_out": [] if kept is None else [rung for rung in rungs if rung not in kept],
        "from_trial": None if chosen is None else chosen.trial_id,
    }
    return found | {"task": task | {"text": _text(objective.name, task)}}


def _share(trials: list[TrialState]) -> float | None:
    """Share of the time of completed trials that went into the task."""
    spent = total = 0.0
    for trial in trials:
        if trial.status == "completed":
            spent += sum(task_seconds(row) or 0.0 for row in trial.evals)
            total += sum(seconds for phase, seconds in trial.costs.items() if phase != "lost")
    return spent / total if total > 0 else None


def _text(name: str, task: dict[str, Any]) -> str:
    if task["items"] is None or task["share"] is None:
        return f"{name} has not been measured to the end of a trial yet."
    text = (
        f"{name} is measured on {task['items']:,} items, which took {duration(task['seconds'])} each time and "
        f"{percent(task['share'], 1)} of the completed trials' time."
    )
    if task["left_out"]:
        rungs = ", ".join(percent(rung) for rung in task["left_out"])
        text += (
            f" From {task['from_trial']} on it was not measured at {rungs} of the budget, to keep it below "
            f"{percent(task['max_share'])} (max_share)."
        )
    return text
