"""Tasks that trials are measured on: the check that they can be measured, and at which rungs that is affordable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sweepft.driver.configs import measured_by_name
from sweepft.errors import EvaluateError, Problem
from sweepft.evaluation import EvalTask
from sweepft.evaluation.own_metric import check_own_tasks, own_tasks
from sweepft.evaluation.tasks import check_tasks
from sweepft.ledger import Row, SweepState, affordable_rungs, metric_of, task_cost
from sweepft.slot.jobs import ObjectiveTask
from sweepft.spec import SweepSpec


def check_objective(spec: SweepSpec, say: Callable[[str], None] = lambda text: None) -> None:
    """Load the tasks that trials are measured on in a child process, and see that they have the metric and as many
    items as asked for; of a function of the user's own, read the rows and call it.

    Args:
        spec: Of the sweep.
        say: Shows a warning.
    Raises:
        EvaluateError: If the task, its data, its metric or so many items cannot be had.
        OwnMetricError: If a function cannot be used.
        DataError: If its rows cannot be used.
    """
    check_own_tasks(own_tasks(spec))
    planned = [one for one in measured_by_name(spec, "").values() if isinstance(one.task, EvalTask)]
    if not planned:
        return
    found = check_tasks([one.task for one in planned if isinstance(one.task, EvalTask)])
    places = {wanted.names[0]: place for place, wanted in spec.objective.measured.items()}
    for one in planned:
        _check_task(spec, places[one.task.name], one, found[one.task.name], say)


def _check_task(
    spec: SweepSpec, key: str, planned: ObjectiveTask, facts: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Check metric, number of items and direction of a task of the harness."""
    name, wanted = planned.task.name, planned.metric
    try:
        _, metric = metric_of(f"task.{wanted}", ["task"], {"task": facts["metrics"]})
    except ValueError:
        named = [one for one in facts["metrics"] if one.startswith(f"{wanted},")]
        rule = "is measured with several filters" if named else f"is no metric of {name}"
        remedy = f"use one of {'; '.join(named or facts['metrics'])}"
        raise _refused(spec, f"{key}.metric", rule, remedy, wanted, "objective.metric") from None
    documents, limit = facts["documents"], planned.task.limit
    if limit is not None and limit > documents:
        rule, remedy = f"is more than the {documents} items of {name}", "lower it, or leave it out for all"
        raise _refused(spec, f"{key}.limit", rule, remedy, limit, "objective.limit")
    if (metric in facts["higher"]) != planned.higher_is_better:
        better = "higher" if metric in facts["higher"] else "lower"
        say(f"{key}: the task file says that {better} is better in {metric} of {name}")


def _refused(spec: SweepSpec, place: str, rule: str, remedy: str, value: object, key: str) -> EvaluateError:
    return EvaluateError(str(Problem(spec.name, place, rule, remedy, value)), key=key)


def objective_rungs(spec: SweepSpec, state: SweepState, trial_id: str) -> tuple[float, ...] | None:
    """The rungs at which a trial's tasks are measured beside the end; None for all of them, also without any task.

    They are chosen once, when a trial has completed and shown what the task takes, and hold for all later trials. The
    ledger has them in the row of each trial, so that a resumed one is measured where it would have been.
    """
    if not spec.objective.measured:
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


_ONLY_THE_END: Final = (
    "; a trial's end is then the only evaluation that can be its best one (objective.at: best): raise "
    "objective.max_share, or lower limit, to choose among more"
)


def _chooses_by_tasks(spec: SweepSpec) -> bool:
    """Whether an evaluation without the tasks cannot be the best one of its trial."""
    bounded = {wanted.names[0] for wanted in spec.objective.measured.values()} & {*spec.search.subject_to}
    return spec.objective.at == "best" and (spec.objective.task is not None or bool(bounded))


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
        if left_out and cost is not None:
            each, rest = cost
            share = each / (each + rest)
            names = [wanted.names[0] for wanted in spec.objective.measured.values()]
            what = f"{names[0]} takes" if len(names) == 1 else f"{', '.join(names)} together take"
            it_is = "it is" if len(names) == 1 else "they are"
            say(
                f"{what} {each:.3g} s, {share:.0%} of a trial each time: from "
                f"{row['trial_id']} on {it_is} not measured at {', '.join(f'{rung:.0%}' for rung in left_out)} of the "
                f"budget (objective.max_share {spec.objective.max_share:g})"
                + (_ONLY_THE_END if not row["objective_rungs"] and _chooses_by_tasks(spec) else "")
            )

    return on_row
