"""A task as the objective of a sweep: the check that it can be measured, and at which rungs that is affordable."""

from __future__ import annotations

from collections.abc import Callable

from sweepft.driver.configs import objective_of, objective_task
from sweepft.errors import EvaluateError, Problem
from sweepft.evaluation import OwnTask
from sweepft.evaluation.own_metric import check_own_tasks, own_tasks
from sweepft.evaluation.tasks import check_tasks
from sweepft.ledger import Row, SweepState, affordable_rungs, metric_of, task_cost
from sweepft.spec import OwnMetric, SweepSpec


def check_objective(spec: SweepSpec, say: Callable[[str], None] = lambda text: None) -> None:
    """Load the task of the objective in a child process, and see that it has the metric and as many items as asked for;
    of a function of the user's own, read the rows and call it.

    Args:
        spec: Of the sweep.
        say: Shows a warning.
    Raises:
        EvaluateError: If the task, its data, its metric or so many items cannot be had.
        OwnMetricError: If a function cannot be used.
        DataError: If its rows cannot be used.
    """
    wanted, planned = spec.objective.task, objective_task(spec, "")
    if wanted is None or planned is None:
        return
    if isinstance(wanted, OwnMetric) or isinstance(planned.task, OwnTask):
        check_own_tasks(own_tasks(spec))
        return
    key, facts = spec.objective.key, check_tasks([planned.task])[planned.task.name]
    try:
        _, metric = metric_of(f"task.{wanted.metric}", ["task"], {"task": facts["metrics"]})
    except ValueError:
        named = [name for name in facts["metrics"] if name.startswith(f"{wanted.metric},")]
        rule = "is measured with several filters" if named else f"is no metric of {wanted.task}"
        remedy = f"use one of {'; '.join(named or facts['metrics'])}"
        raise _refused(spec, f"{key}.metric", rule, remedy, wanted.metric, "objective.metric") from None
    documents = facts["documents"]
    if wanted.limit is not None and wanted.limit > documents:
        rule, remedy = (
            f"is more than the {documents} items of {wanted.task}",
            "lower it, or leave it out for all",
        )
        raise _refused(spec, f"{key}.limit", rule, remedy, wanted.limit, "objective.limit")
    if (metric in facts["higher"]) != objective_of(spec).maximize:
        better = "higher" if metric in facts["higher"] else "lower"
        say(f"{key}: the task file says that {better} is better in {metric} of {wanted.task}")


def _refused(spec: SweepSpec, place: str, rule: str, remedy: str, value: object, key: str) -> EvaluateError:
    return EvaluateError(str(Problem(spec.name, place, rule, remedy, value)), key=key)


def objective_rungs(spec: SweepSpec, state: SweepState, trial_id: str) -> tuple[float, ...] | None:
    """The rungs at which a trial's task is measured beside the end; None for all of them, also for a validation loss.

    They are chosen once, when a trial has completed and shown what the task takes, and hold for all later trials. The
    ledger has them in the row of each trial, so that a resumed one is measured where it would have been.
    """
    if spec.objective.task is None:
        return None
    if trial_id in state.trials:
        return state.trials[trial_id].objective_rungs
    chosen = (t.objective_rungs for t in reversed(state.search_trials) if t.objective_rungs is not None)
    known = next(chosen, None)
    if known is not None:
        return known
    cost = task_cost(state.search_trials)
    if cost is None:
        return None
    return affordable_rungs(_points(spec, state), *cost, spec.objective.max_share)


def _points(spec: SweepSpec, state: SweepState) -> tuple[float, ...]:
    """Where trials are evaluated before their end."""
    return spec.evaluation_points(state.budget_samples, state.training_rows)


def say_where_objective_is_measured(
    spec: SweepSpec, state: SweepState, say: Callable[[str], None]
) -> Callable[[Row], None]:
    """Say once that later trials are measured at fewer rungs, and why."""
    said = any(trial.objective_rungs is not None for trial in state.search_trials)

    def on_row(row: Row) -> None:
        nonlocal said
        if said or row["kind"] != "trial" or row["objective_rungs"] is None:
            return
        said = True
        cost = task_cost(state.search_trials)
        left_out = [rung for rung in _points(spec, state) if rung not in row["objective_rungs"]]
        if left_out and cost is not None and spec.objective.task is not None:
            each, rest = cost
            share = each / (each + rest)
            say(
                f"{state.objective.name} takes {each:.3g} s, {share:.0%} of a trial each time: from "
                f"{row['trial_id']} on it is not measured at {', '.join(f'{rung:.0%}' for rung in left_out)} of the "
                f"budget (objective.max_share {spec.objective.max_share:g})"
            )

    return on_row
