"""Rules between sections of a spec. Each check sees sections that are valid in themselves, or None."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from sweepft.errors import Problem
from sweepft.redact import redact, secret_in
from sweepft.spec.curriculum import domain_problems, is_data_key
from sweepft.spec.fields import MicroTokens
from sweepft.spec.hardware import check_hardware
from sweepft.spec.objective import OwnMetric
from sweepft.spec.partial import PartialSpec
from sweepft.spec.problems import did_you_mean, problems_of
from sweepft.spec.row_source import RowSource
from sweepft.spec.search_checks import (
    check_bounds,
    check_enough,
    check_grid,
    check_half_life,
    check_learn_from,
    check_priors,
)
from sweepft.spec.sections import Data, Resources, Search, Train
from sweepft.spec.space import Dimension
from sweepft.spec.sweep import (
    SWEEPABLE,
    SweepSpec,
    TrainConfig,
    apply,
    evaluation_points,
    get_dotted,
    is_sweepable,
    train_dict,
)
from sweepft.spec.yaml_source import Document, KeyPath, dotted, key_path


def check_all(partial: PartialSpec) -> None:
    """Report violations of the rules between sections."""
    for check in (*_CHECKS, check_hardware):
        check(partial)
    if partial.train is not None and partial.search is not None and partial.train.budget.samples is not None:
        _check_budget(partial, partial.train, partial.search, partial.train.budget.samples)


def check_budget(spec: SweepSpec, budget_samples: int, rows: int | None = None) -> list[Problem]:
    """Check a spec again once a budget in tokens or epochs is known in samples (per trial).

    Args:
        spec: Valid so far.
        budget_samples: Samples of a trial.
        rows: Training rows, as far as they are known.
    """
    found = PartialSpec(Document("spec"))
    _check_budget(found, spec.train, spec.search, budget_samples)
    if not found.problems and spec.objective.at == "best":
        _check_evaluations(found, spec, budget_samples, rows)
    return found.problems


def _check_evaluations(partial: PartialSpec, spec: SweepSpec, budget: int, rows: int | None) -> None:
    """Check that trials are evaluated before their end, and often enough for ``patience`` to end one."""
    from sweepft.early_stopping import parse_rungs, rung_steps  # which loads numpy: not for `validate`

    points = parse_rungs(spec.evaluation_points(budget, rows))
    most = 0
    for path, size in _batch_sizes(spec.train, spec.search):
        steps = set(rung_steps(points, batch_size=size, budget=budget).values()) - {-(-budget // size)}
        most = max(most, len(steps))
        if not steps:
            rule = f"best has no evaluation to choose from: a trial of batch size {size} is evaluated at its end only"
            earlier = "" if size >= budget else "add an earlier rung to early_stop.rungs, "  # it has one step
            remedy = f"{earlier}lower {dotted(path)}, or set objective.at: end"
            partial.add(("objective", "at"), rule, remedy, "best")
    patience = spec.early_stop.patience
    if patience is not None and patience >= most > 0:
        _refuse_patience(partial, patience, most)


def _refuse_patience(partial: PartialSpec, patience: int, evaluations: int) -> None:
    rule = f"must be less than the number of evaluations before a trial's end ({evaluations}), or it ends no trial"
    partial.add(("early_stop", "patience"), rule, "lower it, or add rungs to early_stop.rungs", patience)


def _check_patience(partial: PartialSpec) -> None:
    """Check that a trial which its patience ends has a value, and that there are enough evaluations for it."""
    train, stop, objective = partial.train, partial.early_stop, partial.objective
    if train is None or stop is None or objective is None or stop.patience is None:
        return
    if objective.at == "end":
        rule = "requires objective.at: best; a trial that ends early has no value at its end"
        remedy = "set objective: {at: best}, or remove it"
        partial.add(("early_stop", "patience"), rule, remedy, stop.patience)
    elif train.budget.epochs is not None:
        points = len(evaluation_points(stop.rungs, train.budget.epochs))
        if stop.patience >= points:
            _refuse_patience(partial, stop.patience, points)


def _check_precision(partial: PartialSpec) -> None:
    train = partial.train
    if train is not None and train.precision == "bf16" and train.zero_stage == 0:
        rule = "must not be 0 with precision bf16: the engine cannot be reset exactly between trials"
        partial.add(("train", "zero_stage"), rule, "set train.zero_stage: 1, or train.precision: fp32", 0)


def check_secrets(partial: PartialSpec, data: Mapping[str, Any], *, overrides_only: bool = False) -> None:
    """Refuse credentials, without showing them: the spec is copied to the run folder, its ledger and its report.

    Args:
        partial: Takes the problems. Others at the same key are dropped: they may show the value.
        data: The spec as written, or resolved.
        overrides_only: Whether to look at values from ``--set`` only.
    """
    for path, text, name in _texts(data, ()):
        if path == ("notify", "webhook"):
            continue  # kept in the environment instead: see sweepft.driver.notify
        where = partial.document.where(path)
        what = None if overrides_only and not where.startswith("--set ") else secret_in(text, name)
        if what is None:
            continue
        key = redact(dotted(path))
        rule = f"must not contain a token, key or password, but has what looks like {what}"
        remedy = (
            "set it in the environment, e.g. as HF_TOKEN, and revoke it if others have seen it; "
            "if it is none of these, rename the file, folder or value"
        )
        partial.problems = [p for p in partial.problems if p.key != dotted(path)]
        partial.problems.append(Problem(redact(where), key, rule, remedy))


def _texts(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str, str]]:
    """Each text with its key path and the name of its key; numbers too, as a password may be one."""
    if isinstance(data, str | int) and not isinstance(data, bool):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        yield path, str(data), name
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            if isinstance(key, str):
                yield (*path, key), key, ""
            yield from _texts(value, (*path, key))


def _check_sets(partial: PartialSpec) -> None:
    """Check weights, fractions, splits and names of the validation and test sets."""
    if partial.data is None:
        return
    validation, test = partial.data.validation, partial.data.test
    if not any(held.weight for held in validation):
        rule = "must not all have weight 0: the objective is their weighted mean"
        partial.add(("data", "validation"), rule, "set weight: 1.0 on one of them")
    fractions = [held.fraction for held in validation if held.fraction is not None]
    if sum(fractions) >= 1:
        rule = "must leave rows to train on; the fractions add up to 1 or more"
        partial.add(("data", "validation"), rule, "use fractions of a few percent", round(sum(fractions), 6))
    for i, held in enumerate(validation):
        for name in RowSource.model_fields if held.fraction is not None else ():
            if name != "limit" and getattr(held, name) != RowSource.model_fields[name].default:
                rule = "applies to a path, not to a fraction of the training rows"
                partial.add(("data", "validation", i, name), rule, "remove it", getattr(held, name))
    seen: dict[str, str] = {}
    sets = [("validation", i, held.name) for i, held in enumerate(validation)]
    sets += [("test", i, source.name) for i, source in enumerate(test)]
    for kind, i, name in sets:
        if name in seen:
            rule = f"must be unique; {seen[name]} has the same name"
            partial.add(("data", kind, i, "name"), rule, "choose another name", name)
        seen.setdefault(name, f"data.{kind}.{i}")


def _check_space_keys(partial: PartialSpec) -> None:
    if partial.search is None:
        return
    keys = list(partial.search.space)
    for key in keys:
        path: KeyPath = ("search", "space", key)
        if not is_sweepable(key):
            section, name = (Data, key.removeprefix("data.")) if is_data_key(key) else (Train, key)
            fixed = name.split(".")[0] in section.model_fields
            rule = "is the same for every trial and cannot be swept" if fixed else "is not a known key"
            partial.add(path, rule, did_you_mean(key, SWEEPABLE))
        for other in keys:
            if key.startswith(other + "."):
                partial.add(path, f"is part of {other}, which is also swept", "remove one of the two")


def _check_fixed_or_swept(partial: PartialSpec) -> None:
    train, search = partial.train, partial.search
    if train is None or search is None:
        return
    written = partial.document.data["search"]["space"]  # including invalid dimensions
    for name in ("batch_size", "learning_rate"):
        if getattr(train, name) is None and name not in written:
            remedy = f"set train.{name}, or add search.space.{name}"
            partial.add(("train", name), "must be set or swept", remedy)
    for key in search.space:
        section, name = ("data", key) if is_data_key(key) else ("train", f"train.{key}")
        if _is_given(partial.document.data.get(section), key.removeprefix("data.")):
            remedy = f"remove {name}, or remove {key} from search.space (--set search.space.{key}=null)"
            partial.add(("search", "space", key), f"is both set in {section} and swept", remedy)


def _check_values(partial: PartialSpec) -> None:
    """Validate every choice, range end and start value in the train section, one at a time."""
    train, search = partial.train, partial.search
    if train is None or search is None:
        return
    written = partial.document.data["search"]["space"]  # including invalid dimensions
    for key, dimension in search.space.items():
        if is_sweepable(key):
            rules: set[str] = set()
            for below, value in dimension.examples():
                for problem in _try(partial, train, key, value):
                    if dimension.kind == "choice" or problem.rule not in rules:  # once for both range ends
                        partial.add(("search", "space", key, *below), problem.rule, problem.remedy, value)
                    rules.add(problem.rule)
    for place, start in search.first_trials.items():
        for key, value in start.items():
            path: KeyPath = (*place, key)
            if key in search.tied:
                remedy = f"remove it: every trial has {search.tied[key].times:g} x {search.tied[key].of}"
                partial.add(path, "follows another field (search.tied)", remedy, value)
            elif key not in search.space and key in written:
                continue  # the dimension itself is the problem
            elif key not in search.space:
                rule = "is not a key of search.space"
                partial.add(path, rule, did_you_mean(key, search.space), value)
            else:
                _check_start(
                    partial, path, search.space[key], start.get("batch_size", train.batch_size), value
                )


def _check_start(
    partial: PartialSpec, path: KeyPath, dimension: Dimension, batch_size: Any, value: Any
) -> None:
    """Check a start value, which for a scaled learning rate is that of the trial's own batch size."""
    if dimension.at_batch is not None and not isinstance(batch_size, int):
        rule = "needs the trial's batch_size, as the rate is scaled with it"
        partial.add(path, rule, "add batch_size to the entry, or remove learning_rate", value)
        return
    if not dimension.contains(value, batch_size if dimension.at_batch is not None else None):
        remedy = f"use a value of search.space.{path[-1]}, or extend it"
        rule = "must lie in the search space"
        if dimension.at_batch is not None and isinstance(value, int | float):
            own = value / dimension.scale(batch_size)
            rule += f": at batch size {dimension.at_batch} it is {own:.4g}"
        partial.add(path, rule, remedy, value)


def _check_tied(partial: PartialSpec) -> None:
    """Check that tied fields are fields of ``train`` that nothing else sets, and valid at every value they can have."""
    train, search = partial.train, partial.search
    if train is None or search is None:
        return
    for key, dimension in search.space.items():
        if dimension.at_batch is not None and key != "learning_rate":
            partial.add(("search", "space", key, "at_batch"), "applies to learning_rate only", "remove it")
    fields = [key for key in SWEEPABLE if not is_data_key(key)]
    for key, tie in search.tied.items():
        path: KeyPath = ("search", "tied", key)
        if key in ("learning_rate", "batch_size"):
            remedy = "sweep it; search.space.learning_rate: {at_batch: N} scales the rate with the batch size"
            partial.add(path, "cannot follow another field", remedy)
        elif key not in fields:
            partial.add(
                path, "is not a field of train that may differ between trials", did_you_mean(key, fields)
            )
        elif key in search.space:
            partial.add(path, "is both swept and tied", f"remove {key} from search.space or from search.tied")
        elif _is_given(partial.document.data.get("train"), key):
            partial.add(path, "is both set in train and tied", f"remove train.{key}, or the tie")
        elif tie.of in search.tied:
            remedy = f"give it as a multiple of {search.tied[tie.of].of}"
            partial.add((*path, "of"), "must not be tied itself", remedy, tie.of)
        elif tie.of not in fields and get_dotted(train_dict(train), tie.of) is None:
            partial.add((*path, "of"), "is not a field of train", did_you_mean(tie.of, fields), tie.of)
        else:
            _check_tied_values(partial, train, search, key)


def _check_tied_values(partial: PartialSpec, train: Train, search: Search, key: str) -> None:
    path: KeyPath = ("search", "tied", key)
    tie = search.tied[key]
    for _, value in search.candidates(tie.of, get_dotted(train_dict(train), tie.of)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            rule = (
                "is not a number in every trial" if value is not None else "is neither set in train nor swept"
            )
            partial.add((*path, "of"), rule, f"set train.{tie.of}, or sweep numbers", tie.of)
            return
        for problem in _try(partial, train, key, tie.value(value)):
            rule = f"{problem.rule} where {tie.of} is {value:g}"
            partial.add(path, rule, problem.remedy, tie.value(value))


def _try(partial: PartialSpec, train: Train, key: str, value: Any) -> list[Problem]:
    curriculum: dict[str, Any] = {} if not is_data_key(key) else {"data": {}}
    base = {"batch_size": 1, "learning_rate": 1.0, **train_dict(train)} | curriculum
    data = apply(base, {key: value})
    try:
        TrainConfig.from_dict(data, budget_samples=1)
    except ValidationError as error:
        return problems_of(error, TrainConfig, data, partial.document.where)
    return []


def _check_curriculum(partial: PartialSpec) -> None:
    """Check strategy, phases and replay. Domains are checked if every source names its own; else when rows are read."""
    data, search = partial.data, partial.search
    if data is None or search is None:
        return
    written = partial.document.data["data"]
    swept = {key: [v for _, v in d.examples()] for key, d in search.space.items() if is_data_key(key)}
    phased = "phased" in swept.get("data.strategy", (data.strategy,))
    if phased and not data.phases:
        place: KeyPath = (
            ("data", "strategy") if "strategy" in written else ("search", "space", "data.strategy")
        )
        remedy = "for example data.phases: [{domains: [knowledge], share: 0.4}, {domains: [skills]}]"
        partial.add(place, "phased requires data.phases", remedy)
    if data.phases and "strategy" not in written and "data.strategy" not in swept:
        remedy = "set data.strategy: phased, or sweep data.strategy: {choice: [stacked, phased]}"
        partial.add(("data", "phases"), "is set, but no trial is phased", remedy)
    if (data.replay or "data.replay" in swept) and not data.phases:
        place = ("data", "replay") if data.replay else ("search", "space", "data.replay")
        partial.add(place, "requires data.phases", "add data.phases, or remove the key")
    named = [source.domain for source in data.train]
    if None not in named:
        domains = list(dict.fromkeys(name for name in named if name is not None))
        for path, rule, remedy in domain_problems(data.curriculum, swept, domains):
            partial.add(path, rule, remedy)


def _check_batches(partial: PartialSpec) -> None:
    train, search, resources = partial.train, partial.search, partial.resources
    if train is None or search is None or resources is None:
        return
    dimension = search.space.get("batch_size")
    packed = isinstance(train.micro_batch, MicroTokens)
    if dimension is not None and dimension.kind != "choice":
        remedy = f"list the values, for example choice: [{', '.join(map(str, _multiples(train, resources)))}]"
        why = "" if packed else ": it must be a multiple of micro_batch x workers_per_trial"
        partial.add(("search", "space", "batch_size"), f"must be a choice{why}", remedy)
        return
    if packed:  # any number of samples can be packed
        return
    unit = _unit(train, resources)
    for path, size in _batch_sizes(train, search):
        if isinstance(size, bool) or not isinstance(size, int) or size <= 0 or size % unit == 0:
            continue
        below, above = size // unit * unit, -(-size // unit) * unit
        fitting = f"{below} or {above}" if below else str(above)
        ranks = f"workers_per_trial {resources.workers_per_trial}"
        if isinstance(train.micro_batch, int):
            ranks = f"micro_batch {train.micro_batch} x {ranks} = {unit}"
        rule = f"must be a multiple of {ranks}"
        remedy = f"use {fitting}{_smaller_micro(size, train, resources)}"
        partial.add(path, rule, remedy, size)


def _smaller_micro(size: int, train: Train, resources: Resources) -> str:
    share, rest = divmod(size, resources.workers_per_trial)
    if rest or not share or not isinstance(train.micro_batch, int):
        return ", or change resources.workers_per_trial"
    return f", or set train.micro_batch to {math.gcd(share, train.micro_batch)}"


def _unit(train: Train, resources: Resources) -> int:
    """Smallest batch size: one micro-batch per rank, or one sample per rank if micro-batches are not in samples."""
    return (train.micro_batch if isinstance(train.micro_batch, int) else 1) * resources.workers_per_trial


def _check_tokens(partial: PartialSpec) -> None:
    """A sample longer than the micro-batch would need more memory than was asked for."""
    train, data = partial.train, partial.data
    if train is None or data is None or not isinstance(train.micro_batch, MicroTokens):
        return
    if train.micro_batch.tokens < data.max_length:
        rule = f"must be at least data.max_length, which is {data.max_length}"
        remedy = f"use at least {data.max_length}, or lower data.max_length"
        partial.add(("train", "micro_batch", "tokens"), rule, remedy, train.micro_batch.tokens)


def _multiples(train: Train, resources: Resources) -> list[int]:
    unit = _unit(train, resources)
    return [unit, 2 * unit, 4 * unit]


def _batch_sizes(train: Train, search: Search) -> Iterator[tuple[KeyPath, Any]]:
    if train.batch_size is not None:
        yield ("train", "batch_size"), train.batch_size
    dimension = search.space.get("batch_size")
    for i, value in enumerate(dimension.choices if dimension is not None else ()):
        yield ("search", "space", "batch_size", "choice", i), value
    for place, start in search.first_trials.items():
        if "batch_size" in start:
            yield (*place, "batch_size"), start["batch_size"]


def _check_objective(partial: PartialSpec) -> None:
    """Check that the objective's task is not confused with a set of the data."""
    objective, data = partial.objective, partial.data
    if objective is None or data is None:
        return
    sets = {held.name: f"data.validation.{i}" for i, held in enumerate(data.validation)}
    sets |= {test.name: f"data.test.{i}" for i, test in enumerate(data.test)}
    for place, wanted in objective.measured.items():
        name = wanted.names[0]
        if name in sets:
            rule = f"must not have the name of {sets[name]}: its scores and losses could be confused"
            key = "data" if isinstance(wanted, OwnMetric) else "task"
            remedy = "rename the set in data" + (", or the file" if key == "data" else "")
            partial.add((*key_path(place), key), rule, remedy, name)


def _check_wsd(partial: PartialSpec) -> None:
    train, search = partial.train, partial.search
    if train is None or search is None:
        return
    schedules = search.candidates("schedule", train.schedule)
    warmups = _floats(search.candidates("warmup", train.warmup))
    decays = _floats(search.candidates("decay_fraction", train.decay_fraction))
    if not warmups or not decays or not any(value == "wsd" for _, value in schedules):
        return
    total = max(warmups) + max(decays)
    if total > 1:
        rule = "warmup + decay_fraction of a wsd schedule must be at most 1"
        path: KeyPath = (
            ("search", "space", "warmup") if "warmup" in search.space else ("train", "decay_fraction")
        )
        partial.add(path, rule, "lower the largest warmup, or train.decay_fraction", round(total, 6))


def _floats(candidates: list[tuple[KeyPath, Any]]) -> list[float]:
    return [value for _, value in candidates if isinstance(value, float)]


def _check_budget(partial: PartialSpec, train: Train, search: Search, budget: int) -> None:
    sizes = [(path, size) for path, size in _batch_sizes(train, search) if isinstance(size, int) and size > 0]
    for path, size in sizes:
        if size > budget:
            rule = f"must be at most the budget of {budget} samples"
            partial.add(path, rule, f"use at most {budget}, or raise train.budget", size)
    largest = max((size for _, size in sizes if size <= budget), default=None)
    if largest is None:
        return
    shortest = -(-budget // largest)
    for path, steps in _warmup_steps(train, search):
        if steps >= shortest:
            rule = f"warmup must be shorter than the trial: batch size {largest} trains {shortest} steps"
            partial.add(path, rule, f"use fewer than {shortest} steps, or a fraction", steps)


def _warmup_steps(train: Train, search: Search) -> Iterator[tuple[KeyPath, int]]:
    for path, value in search.candidates("warmup", train.warmup):
        steps = value.get("steps") if isinstance(value, dict) else getattr(value, "steps", None)
        if type(steps) is int:
            yield path, steps
    if "warmup.steps" in search.space:
        for path, value in search.candidates("warmup.steps", None):
            if type(value) is int:
                yield path, value


def _check_rank_by(partial: PartialSpec) -> None:
    """Check that ``rank_by`` names scores that are computed. Metrics are checked when the tasks are read."""
    evaluate, data = partial.evaluate, partial.data
    if evaluate is None or data is None:
        return
    tests = [test.name for test in data.test]
    names = [task.name for task in evaluate.each_task()]
    names += ["mt_bench"] if evaluate.mt_bench is not None else []
    sets = {*tests, *(held.name for held in data.validation)}
    for i, name in enumerate(names):
        if name in sets:
            rule = "must not have the name of a test or validation set: their scores could be confused"
            partial.add(("evaluate", "tasks", i), rule, "rename the set in data", name)
    if not names and not tests and evaluate.replicates is None:
        rule = "must have something to score: tasks, mt_bench, replicates or data.test"
        partial.add(("evaluate",), rule, "add tasks, or remove the section")
    for key in evaluate.weights:
        known = key == "objective" or any(key == name or key.startswith(f"{name}.") for name in names + tests)
        if not known:
            remedy = did_you_mean(key, ["objective", *names, *(f"{test}.loss" for test in tests)])
            rule = "must be objective, a task or a test set"
            partial.add(("evaluate", "rank_by"), rule, remedy, key)


_CHECKS: Final[tuple[Callable[[PartialSpec], None], ...]] = (
    _check_precision,
    _check_sets,
    _check_space_keys,
    _check_fixed_or_swept,
    _check_values,
    _check_tied,
    check_half_life,
    _check_curriculum,
    _check_batches,
    _check_tokens,
    check_grid,
    check_priors,
    check_learn_from,
    check_enough,
    check_bounds,
    _check_objective,
    _check_patience,
    _check_wsd,
    _check_rank_by,
)


def _is_given(train: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(train, dict) or part not in train:
            return False
        train = train[part]
    return True
