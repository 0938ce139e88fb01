"""Print a plan: 80 columns, with colours on a terminal and as plain text elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sweepft.plan.cluster import rank_room
from sweepft.plan.cost import ObjectiveCost, replicate_count
from sweepft.plan.estimate import SweepPlan
from sweepft.plan.exams import Exams
from sweepft.plan.fastest import Fastest
from sweepft.plan.memory import GIB, checkpoint_bytes, loading_bytes
from sweepft.plan.trial_shapes import TrialShape, is_quantized, largest_lora_rank, whole_modules
from sweepft.plan.warnings import count
from sweepft.spec import Bound, Evaluate, MicroTokens, OwnMetric, SweepSpec, TaskMetric

_LABEL = 11
_WIDEST = 100


def show_plan(plan: SweepPlan, console: Console) -> None:
    """Print a plan to ``console``, at most 100 columns wide."""
    console.width = min(console.width, _WIDEST)
    with console.capture() as captured:
        _show(plan, console)
    lines = captured.get().splitlines()
    console.file.write("\n".join(lines if console.is_terminal else map(str.rstrip, lines)) + "\n")


def _show(plan: SweepPlan, console: Console) -> None:
    console.print(Text.assemble(("plan ", "dim"), (plan.spec.name, "bold")))
    _facts(console, _summary(plan))
    _section(console, "Steps", "per trial, by batch size")
    console.print(Padding(_steps(plan), (0, 0, 0, 2)))
    if plan.memory is not None:
        unit = "GPU" if plan.cluster.gpu else "rank, main memory"
        of = f" of {_room(plan) / GIB:.0f}" if plan.cluster.gpu else ""
        packed = isinstance(plan.spec.train.micro_batch, MicroTokens)
        micro = f"{plan.micro_batch:,} packed" if packed else f"{plan.micro_batch} x {plan.rows.longest:,}"
        _section(console, "Memory", f"GiB per {unit}{of}, micro-batch {micro} tokens")
        console.print(Padding(_memory(plan), (0, 0, 0, 2)))
        console.print(Padding(Text(_breakdown(plan), style="dim"), (0, 0, 0, 2)))
    _section(console, "Disk", "peak")
    console.print(Padding(_disk(plan), (0, 0, 0, 2)))
    if plan.cost is not None:
        _section(console, "Time", plan.cost.basis)
        _facts(console, _time(plan))
    if plan.rows.notes:
        _section(console, "Data", "")
        _items(console, plan.rows.notes, "")
    if plan.rates is not None:
        _section(console, "Learning rates", "sweepft presets --for SPEC")
        _items(console, (plan.rates,), "")
    if plan.warnings:
        _section(console, "Warnings", "")
        _items(console, plan.warnings, "yellow")
    if plan.assumptions:
        _section(console, "Assumptions", "change them with the flags in parentheses")
        _items(console, plan.assumptions, "")


def _summary(plan: SweepPlan) -> Iterable[tuple[str, str]]:
    spec, cluster, placement = plan.spec, plan.cluster, plan.placement
    model = plan.model
    size = "" if model is None else f", {_count(model.parameters)} parameters (from {model.source})"
    yield "model", f"{spec.model.path}{size}"
    left_out = f" ({plan.rows.left_out:,} left out)" if plan.rows.left_out else ""
    rows = "" if plan.rows.train is None else f" of {plan.rows.train:,} rows{left_out}"
    tokens = f"{plan.rows.tokens:.0f} tokens each: {_count(plan.budget * plan.rows.tokens)} tokens"
    yield "trial", f"{plan.budget:,} samples{rows}, {tokens}"
    trials = "as many trials as the limit allows" if plan.trials is None else f"{plan.trials} trials"
    how = f"sampler {spec.search.sampler}, early stopping {spec.early_stop.rule}"
    yield "sweep", f"{trials}, {placement.slots} at a time; {how}"
    kind = "GPU" if cluster.gpu else "CPU"
    where = "across nodes" if placement.across_nodes else "on one node"
    nodes = f"{count(cluster.nodes, 'node')} with {count(cluster.units_per_node, kind)}"
    held = f"{count(placement.units_per_trial, kind)} per trial, {where}"
    yield "cluster", f"{nodes}; {held}" + (f"; {placement.idle:g} idle" if placement.idle > 0 else "")
    if spec.objective.task is not None:
        verb = "maximize" if spec.objective.mode == "max" else "minimize"
        yield "objective", f"{verb} {_measured(spec.objective.task)}"
    if spec.objective.measure:
        yield "measured", "; ".join(map(_measured, spec.objective.measure))
    if spec.objective.at == "best":
        points = spec.evaluation_points(plan.budget, plan.rows.train)
        yield "value", _best(len(points) + 1, spec.early_stop.patience)
    if spec.search.subject_to:
        yield "bounds", "; ".join(map(_bound, spec.search.subject_to, spec.search.subject_to.values()))
    if spec.search.enough is not None:
        gain, least = spec.search.enough.gain, spec.search.enough.min_trials
        yield "end", f"when a further trial is expected to gain less than {gain:g}, after {least} or more"
    if spec.evaluate is not None:
        yield "finalists", _finalists(plan, spec.evaluate)


def _best(evaluations: int, patience: int | None) -> str:
    """Which evaluation of a trial counts."""
    text = f"the best of a trial's {evaluations} evaluations, at rungs, ends of epochs and its end"
    if patience is not None:
        text += f"; a trial ends after {count(patience, 'evaluation')} without a better one"
    return text


def _bound(name: str, bound: Bound) -> str:
    """A bound of ``search.subject_to``."""
    if bound.at_least is not None:
        return f"{name} at least {bound.at_least:g}"
    relative = "above" if bound.above else "below" if bound.below else None
    return f"{name} at most {bound.at_most:g}" + (f" {relative} the base model" if relative else "")


def _measured(wanted: TaskMetric | OwnMetric) -> str:
    """What trials are measured on, and how precisely."""
    items = "all items" if wanted.limit is None else f"{wanted.limit:,} items"
    noise = (
        "" if wanted.limit is None else f", ± {0.5 / wanted.limit**0.5:.2g} at most if an item scores 0 or 1"
    )
    return f"{' '.join(wanted.names)} on {items}{noise}"


def _finalists(plan: SweepPlan, evaluate: Evaluate) -> str:
    """Work after the search."""
    spec = plan.spec
    seeds = replicate_count(spec)
    models = evaluate.finalists.top + evaluate.finalists.random + seeds + 1  # with the base model
    models += spec.baseline_finalist is not None
    parts = len(spec.data.test) + len(evaluate.tasks) + (evaluate.mt_bench is not None)
    work = [f"{count(seeds, 'replicate')}"] if seeds else []
    if parts:
        work.append(f"{count(models, 'model')} scored on {count(parts, 'test')}")
        if plan.cost is None or plan.exams is None or not plan.exams.items:
            work[-1] += " (time not included below)"
    return "; ".join(work)


def _passes(plan: SweepPlan, micro_batches: int | None) -> str:
    if micro_batches is None:
        return "packed" if isinstance(plan.spec.train.micro_batch, MicroTokens) else "auto"
    return f"{micro_batches:,}"


def _steps(plan: SweepPlan) -> Table:
    table = _table("batch", "passes per rank", "steps", "warmup steps", "rungs")
    for trial in plan.trial_shapes:
        low, high = trial.warmup
        table.add_row(
            f"{trial.batch_size:,}",
            _passes(plan, trial.micro_batches),
            f"{trial.steps:,}",
            f"{low:,}" if low == high else f"{low:,} to {high:,}",
            _judged(trial) if plan.spec.early_stop.rule != "none" else "-",
        )
    return table


def _judged(trial: TrialShape) -> str:
    """The rungs at which the rule applies; in parentheses those for trials with the shortest warmup only."""
    names = [name if name in trial.judged else f"({name})" for name in trial.judged_at_best]
    return ", ".join(names) or "none"


def _memory(plan: SweepPlan) -> Table:
    ranks = sorted(next(iter(plan.grid.values())))
    unit = "GPU" if plan.cluster.gpu else "rank"
    table = _table("", *(count(n, unit) for n in ranks))
    own = (plan.spec.train.zero_stage, plan.spec.resources.workers_per_trial)
    for stage, row in plan.grid.items():
        cells = [Text(f"ZeRO-{stage}")]
        for n in ranks:
            fits = row[n] <= _room(plan)
            mark = "*" if (stage, n) == own else ""
            style = ("bold green" if fits else "bold red") if mark else ("" if fits else "dim")
            size = f"{row[n] / GIB:.0f}" if row[n] >= 10 * GIB else f"{row[n] / GIB:.1f}"
            cells.append(Text(f"{mark}{size if fits else f'({size})'}", style=style))
        table.add_row(*cells)
    return table


def _room(plan: SweepPlan) -> int:
    return rank_room(plan.spec.resources, plan.cluster)


def _breakdown(plan: SweepPlan) -> str:
    memory = plan.memory
    assert memory is not None
    sizes = asdict(memory)
    host = sizes.pop("host")
    text = ", ".join(f"{name} {size / GIB:.1f}" for name, size in sizes.items() if size)
    if host:
        text += f"; in main memory {host / GIB:.1f}"
    if plan.cluster.gpu and plan.model is not None:
        ranks = plan.placement.slots * plan.spec.resources.workers_per_trial // max(1, plan.cluster.nodes)
        train = plan.spec.train
        loading = loading_bytes(plan.model, train.zero_stage, train.precision, ranks, is_quantized(plan.spec))
        text += f"; main memory of a node while loading {loading / GIB:.0f}"
        if plan.spec.checkpoint != "none":
            each = checkpoint_bytes(plan.model, largest_lora_rank(plan.spec), whole_modules(plan.spec))
            text += f", for checkpoints {each * ranks / plan.spec.resources.workers_per_trial / GIB:.0f}"
    measured = "" if plan.measured is None else f"; measured {plan.measured.peak_bytes / GIB:.1f}"
    unfit = any(size > _room(plan) for row in plan.grid.values() for size in row.values())
    return f"* this spec: {text}{measured}." + (" (n): does not fit." if unfit else "")


def _disk(plan: SweepPlan) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for use in plan.disk:
        table.add_row(_bytes(use.size), use.what + ("" if use.stays else ", removed at the end"))
    return table


def _time(plan: SweepPlan) -> Iterable[tuple[str, str]]:
    cost = plan.cost
    assert cost is not None
    yield "one trial", _duration(cost.trial_seconds)
    if cost.objective is not None:
        yield "objective", _objective_time(plan.spec, cost.objective)
    gain = None if plan.measured is None else plan.measured.sharing_gain
    if plan.measured is not None and gain is not None:
        yield (
            "sharing",
            f"{plan.measured.slots_per_gpu} trials sharing a GPU have {gain:.2f} times the throughput of one",
        )
    wall = "" if cost.hours is None else f", {_duration(3600 * cost.hours)} wall-clock time"
    yield "all trials", f"{_hours(cost.unit_hours)} {cost.unit}-hours{wall}"
    if cost.saved[1] > 0:
        low, high = cost.after_stopping(cost.unit_hours)
        wall = ""
        if cost.hours is not None:
            shortest, longest = cost.after_stopping(cost.hours)
            wall = f", {_duration(3600 * shortest)} to {_duration(3600 * longest)}"
        yield (
            "stopping",
            f"{_hours(low)} to {_hours(high)} {cost.unit}-hours{wall}, if {plan.spec.early_stop.rule} saves "
            f"{100 * cost.saved[0]:.0f} to {100 * cost.saved[1]:.0f}% as on recorded curves (docs/how-to/scheduler.md)",
        )
    if cost.replicate_hours:
        yield "replicates", f"{_hours(cost.replicate_hours)} {cost.unit}-hours, after the search"
    if plan.exams is not None and plan.exams.items:
        yield "finalists", _exams(plan.exams, cost.unit)
    if plan.fastest is not None:
        yield "fastest", _fastest(plan, plan.fastest)
    if cost.trials_in_limit is not None:
        yield "limit", f"about {cost.trials_in_limit:,} complete trials"


def _objective_time(spec: SweepSpec, cost: ObjectiveCost) -> str:
    """Where tasks are measured, and their share of a trial."""
    if cost.seconds is None:
        return (
            f"at most {cost.share:.0%} of each trial (objective.max_share): it is measured at fewer rungs "
            "where it takes more, at the end always (--measure times it)"
        )
    rungs = [f"{rung:.0%}" for rung in cost.rungs]
    where = f"at {', '.join(rungs)} and the end" if rungs else "at the end only"
    return f"{_duration(cost.seconds)} each time {where}: {cost.share:.1%} of a trial (base model, measured here)"


def _exams(exams: Exams, unit: str) -> str:
    """Time and memory of scoring the finalists."""
    wall = "" if exams.hours is None else f", {_duration(3600 * exams.hours)} wall-clock time"
    text = (
        f"at most {_hours(exams.unit_hours)} {unit}-hours{wall}, after the search: {count(exams.models, 'model')} of "
        f"{_duration(exams.seconds)} each, with {exams.items:,} items, {_count(exams.tokens_read)} tokens read and "
        f"{_count(exams.tokens_generated)} generated; {exams.rank_bytes / GIB:.0f} GiB per {unit}"
    )
    if not exams.shared:
        text += "; the whole weights do not fit one, so that every rank runs all items"
    return text


def _fastest(plan: SweepPlan, found: Fastest) -> str:
    train, packed = plan.spec.train, isinstance(plan.spec.train.micro_batch, MicroTokens)
    changes = []
    if found.zero_stage != train.zero_stage:
        changes.append(f"zero_stage: {found.zero_stage}")
    if found.micro_batch != plan.micro_batch and train.micro_batch != "auto":
        size = f"{{tokens: {found.micro_batch}}}" if packed else f"{found.micro_batch}"
        changes.append(f"micro_batch: {size}")
    if found.gradient_checkpointing != train.gradient_checkpointing:
        changes.append(f"gradient_checkpointing: {str(found.gradient_checkpointing).lower()}")
    if not changes:
        return "this spec, of the ZeRO stages and micro-batches that fit"
    return (
        f"{', '.join(changes)} would train {found.times_as_fast:.2f} times as fast in "
        f"{found.rank_bytes / GIB:.0f} GiB per GPU"
    )


def _section(console: Console, title: str, about: str) -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), ("  " + about if about else "", "dim")))


def _facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=_LABEL)
    table.add_column()
    for name, value in facts:
        table.add_row(name, Text(value))
    console.print(Padding(table, (0, 0, 0, 2)))


def _items(console: Console, items: Iterable[str], style: str) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for item in items:
        table.add_row(Text("-", style=style), Text(item, style=style))
    console.print(Padding(table, (0, 0, 0, 2)))


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for i, head in enumerate(heads):
        left = (i == 0 and not head) or head == "rungs"
        table.add_column(head, justify="left" if left else "right", no_wrap=not left)
    return table


def _count(value: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.0f}"


def _bytes(value: float) -> str:
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.0f} B"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86_400:.1f} days"
