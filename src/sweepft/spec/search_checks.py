"""Rules of the ``search`` section: sampler, priors, earlier sweeps, end of the search, and bounds."""

from __future__ import annotations

import math
from typing import Final

from sweepft.spec.objective import MeasuredFunction, MeasuredTask, Objective, OwnMetric, TaskMetric
from sweepft.spec.partial import PartialSpec
from sweepft.spec.problems import did_you_mean
from sweepft.spec.sections import Bound
from sweepft.spec.sweep import HALF_LIFE
from sweepft.spec.yaml_source import KeyPath

_LARGEST_GRID: Final = 1_000_000


def check_half_life(partial: PartialSpec) -> None:
    """Check that a half-life of the second moment has an optimizer with one, and no betas beside it."""
    train, search = partial.train, partial.search
    if train is None or search is None:
        return
    swept, key = HALF_LIFE in search.space, HALF_LIFE.rpartition(".")[2]
    if train.optimizer.beta2_half_life is None and not swept:
        return
    path: KeyPath = ("search", "space", HALF_LIFE) if swept else ("train", "optimizer", key)
    written = partial.document.data["train"].get("optimizer")
    if "optimizer.betas" in search.space or (isinstance(written, dict) and "betas" in written):
        partial.add(path, "sets the decay rate of the second moment, as betas does", "remove one of the two")
    names = [name for _, name in search.candidates("optimizer.name", train.optimizer.name)]
    if not any(str(name).startswith("adamw") for name in names):
        rule = f"applies to adamw and adamw_8bit, not to {', '.join(map(str, names))}"
        partial.add(path, rule, "remove it, or use adamw")


def check_grid(partial: PartialSpec) -> None:
    """Check that the sampler fits the space, and that the search has an end."""
    search = partial.search
    if search is None:
        return
    if search.sampler == "grid":
        for key, dimension in search.space.items():
            if dimension.kind != "choice":
                rule = f"must be a choice for sampler grid, not {dimension.kind}"
                partial.add(("search", "space", key), rule, "list the values, or use another sampler")
        size = math.prod(len(dimension.choices) for dimension in search.space.values())
        if size > _LARGEST_GRID:
            rule = f"must have at most {_LARGEST_GRID} combinations for sampler grid"
            partial.add(("search", "space"), rule, "use sampler random or qmc", size)
    elif search.trials is None and search.limit is None:
        remedy = "for example trials: 16, or limit: {hours: 8}"
        partial.add(("search", "trials"), "is required without search.limit or sampler grid", remedy)
    if search.sampler == "cmaes":
        numeric = [key for key, dimension in search.space.items() if dimension.is_numeric]
        if len(numeric) < 2:
            rule = "cmaes requires at least two numeric dimensions"
            partial.add(("search", "sampler"), rule, "use tpe, or sweep another numeric key", search.sampler)


def check_priors(partial: PartialSpec) -> None:
    """Check that the sampler takes priors where there are any."""
    search = partial.search
    if search is None or search.sampler != "cmaes":
        return
    for key, dimension in search.space.items():
        if dimension.prior is not None:
            remedy = "use tpe, gp, random or qmc, or remove the prior"
            path: KeyPath = ("search", "space", key, "prior")
            partial.add(path, "sampler cmaes takes no priors", remedy, dimension.prior)


def check_learn_from(partial: PartialSpec) -> None:
    """Check that the sampler can learn from earlier sweeps."""
    search = partial.search
    if search is not None and search.learn_from and search.sampler not in ("tpe", "gp"):
        rule = f"sampler {search.sampler} cannot learn from earlier sweeps (search.learn_from)"
        remedy = "use tpe or gp, or remove search.learn_from"
        partial.add(("search", "sampler"), rule, remedy, search.sampler)


def check_enough(partial: PartialSpec) -> None:
    """Check that the search could end before its last trial."""
    search = partial.search
    if search is None or search.enough is None:
        return
    path: KeyPath = ("search", "enough")
    if search.sampler == "grid":
        rule = "does not apply to sampler grid, which tries every combination"
        partial.add(path, rule, "remove it, or use another sampler")
    elif search.trials is not None and search.enough.min_trials >= search.trials:
        rule = f"must be less than search.trials, which is {search.trials}: the search would never end before"
        remedy = "lower search.enough.min_trials, or raise search.trials"
        partial.add((*path, "min_trials"), rule, remedy, search.enough.min_trials)


def check_bounds(partial: PartialSpec) -> None:
    """Check that bounds name validation sets, and that the sampler can learn them."""
    search, data, keep = partial.search, partial.data, partial.keep
    if search is None:
        return
    if keep is not None and keep.pareto and not search.subject_to:
        remedy = (
            "for example search.subject_to: {retention: {at_most: 0.05, above: base}}, or remove keep.pareto"
        )
        partial.add(("keep", "pareto"), "requires bounds in search.subject_to", remedy, keep.pareto)
    if search.subject_to and search.sampler == "cmaes":
        rule = "cmaes cannot take the bounds of search.subject_to"
        partial.add(("search", "sampler"), rule, "use tpe or gp, or remove the bounds", search.sampler)
    objective = partial.objective
    if data is None or objective is None:
        return
    sets = [held.name for held in data.validation]
    lower = {wanted.names[0]: _lower_is_better(objective, wanted) for wanted in objective.measured.values()}
    tests = [test.name for test in data.test]
    finals = [] if partial.evaluate is None else [task.name for task in partial.evaluate.each_task()]
    for name, bound in search.subject_to.items():
        path: KeyPath = ("search", "subject_to", name)
        if name in sets:
            _check_bound_of_set(partial, path, bound)
        elif name in lower:
            _check_bound_of_task(partial, path, bound, lower[name])
        elif name in tests:
            rule = "is a test set, which is read for finalists only, not during the search"
            partial.add(path, rule, "bound a set of data.validation")
        elif name in finals:
            rule = "is a task of the finalists only; a bound needs its value in every trial"
            remedy = (
                f"measure it in the search: objective.measure: [{{task: {name}, metric: ..., limit: 100}}]"
            )
            partial.add(path, rule, remedy)
        else:
            rule = "is neither a validation set nor a task that trials are measured on"
            remedy = did_you_mean(name, [*sets, *lower]) + "; tasks are measured by objective.measure"
            partial.add(path, rule, remedy)


def _lower_is_better(objective: Objective, wanted: TaskMetric | OwnMetric) -> bool:
    if isinstance(wanted, MeasuredTask | MeasuredFunction):
        return wanted.lower_is_better
    return objective.mode == "min"


def _check_bound_of_set(partial: PartialSpec, path: KeyPath, bound: Bound) -> None:
    if bound.is_floor:
        remedy = "write at_most, or at_most with above: base"
        partial.add(path, "bounds a loss from below: less is better", remedy)
    elif bound.above is None and bound.at_most is not None and bound.at_most <= 0:
        partial.add(path, "must be greater than 0, as every loss is", "add above: base, or allow more")


def _check_bound_of_task(partial: PartialSpec, path: KeyPath, bound: Bound, lower_is_better: bool) -> None:
    if bound.is_floor and lower_is_better:
        remedy = "write at_most, or at_most with above: base, or correct the task's direction in objective"
        partial.add(path, "bounds from below a task of which less is better", remedy)
    elif not bound.is_floor and not lower_is_better:
        remedy = "write at_least, or at_most with below: base, or correct the task's direction in objective"
        partial.add(path, "bounds from above a task of which more is better", remedy)
