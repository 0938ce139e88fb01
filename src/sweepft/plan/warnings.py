"""Warnings of a plan: valid settings that are likely to waste time or money. Each names a remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sweepft.plan.cluster import Cluster, Placement, rank_room, slots_across
from sweepft.plan.cost import Cost
from sweepft.plan.low_rates import low_rate_warnings
from sweepft.plan.memory import GIB, RankMemory, checkpoint_bytes
from sweepft.plan.model_shape import ModelShape
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import TrialShape, is_quantized, largest_lora_rank, whole_modules
from sweepft.slot.room import need
from sweepft.spec import FEWEST_STEPS, SweepSpec

_AFFORDABLE: Final = 0.05  # of training, as in sweepft.slot.checkpoints
_DEAR_SECONDS: Final = 1800.0  # a trial that a fault should not cost
_WRITE_BYTES: Final = 1e9  # a second, to shared storage
_COPY_BYTES: Final = 5e9  # a second, of each rank to main memory
_LEAST_STALL_SECONDS: Final = 3.0  # as in sweepft.slot.state


def count(number: float, what: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def plan_warnings(
    spec: SweepSpec,
    trial_shapes: Sequence[TrialShape],
    trials: int | None,
    budget: int,
    rows: RowCount,
    cluster: Cluster,
    placement: Placement,
    memory: RankMemory | None,
    cost: Cost | None,
    model: ModelShape | None = None,
) -> tuple[str, ...]:
    """All warnings, one or two sentences each."""
    found = [
        *_steps(spec, trial_shapes),
        *_cluster(spec, cluster, placement),
        *_memory(spec, memory, cluster),
        *_strategy(spec),
        *_checkpoints(spec, model, cost),
        *low_rate_warnings(spec, trial_shapes),
    ]
    if trials is not None:
        found += [*_learning(spec, trials, placement), *_space(spec, trials)]
        room = None if cost is None else cost.trials_in_limit
        if room is not None and room < trials:
            found.append(
                f"search.limit ends the sweep after about {room} of {trials} trials if none is stopped early"
            )
    if rows.train is not None and budget > 3 * rows.train:
        found.append(
            f"the budget is {budget / rows.train:.1f} passes over {rows.train:,} rows: expect overfitting; "
            "lower train.budget or add data"
        )
    return tuple(found)


def _steps(spec: SweepSpec, trial_shapes: Sequence[TrialShape]) -> Iterator[str]:
    for trial in trial_shapes:
        if trial.steps >= FEWEST_STEPS:
            continue
        yield (
            f"batch size {trial.batch_size:,} takes {trial.steps} optimizer steps, fewer than {FEWEST_STEPS}: "
            f"too few for a meaningful result; raise train.budget to {FEWEST_STEPS * trial.batch_size:,} samples, "
            "or remove this batch size"
        )
    if spec.early_stop.rule != "none":
        yield from _rungs(spec, trial_shapes)
    for trial in trial_shapes:
        if trial.warmup[1] == 1:
            yield (
                f"batch size {trial.batch_size:,}: a warmup of one step only sets the first learning rate to zero; "
                "set warmup in steps, or a larger fraction"
            )
        elif trial.warmup[1] > trial.steps / 2:
            yield (
                f"batch size {trial.batch_size:,} warms up for {trial.warmup[1]} of {trial.steps} steps: "
                "shorten the warmup or raise train.budget"
            )


def _rungs(spec: SweepSpec, trial_shapes: Sequence[TrialShape]) -> Iterator[str]:
    for trial in trial_shapes:
        if not trial.judged:
            yield (
                f"batch size {trial.batch_size:,}: no rung is past the longest warmup and early_stop.min_steps "
                f"{spec.early_stop.min_steps}, so these trials are never stopped early; "
                "add a later rung, shorten the warmup, or lower min_steps"
            )
    late = [trial for trial in trial_shapes if trial.judged and len(trial.judged) < len(trial.rung_steps)]
    if late:
        first = ", ".join(f"{trial.batch_size:,} from {trial.judged[0]} on" for trial in late)
        yield f"some batch sizes have too few steps for the early rungs: {first}"


def _strategy(spec: SweepSpec) -> Iterator[str]:
    swept = spec.search.space.get("data.strategy")
    if swept is not None and len(swept.choices) > 1 and spec.early_stop.rule != "none":
        yield (
            f"data.strategy is swept and early_stop.rule is {spec.early_stop.rule}: at early rungs phased trials have "
            "not seen their later phases and look worse than stacked ones; set early_stop.rule: none, or place the "
            "first rung in the last phase"
        )


def _checkpoints(spec: SweepSpec, model: ModelShape | None, cost: Cost | None) -> Iterator[str]:
    if spec.checkpoint != "auto" or model is None or cost is None:
        return
    size = checkpoint_bytes(model, largest_lora_rank(spec), whole_modules(spec))
    stalled = max(_LEAST_STALL_SECONDS, size / spec.resources.workers_per_trial / _COPY_BYTES)
    written, trained = size / _WRITE_BYTES, cost.trial_seconds * spec.early_stop.rungs[-1]
    if cost.trial_seconds < _DEAR_SECONDS or (stalled <= _AFFORDABLE * trained and written <= trained):
        return
    why = (
        f"{size / 1e9:.0f} GB take about {written:.0f} s at 1 GB/s, more than the training up to the last rung"
        if written > trained
        else f"training would wait about {stalled:.0f} s for it, more than 5% of the training up to the last rung"
    )
    yield (
        f"checkpoint: auto writes none: {why}, so a fault costs a trial's whole time; set checkpoint: rungs, "
        "or a later rung"
    )


def _cluster(spec: SweepSpec, cluster: Cluster, placement: Placement) -> Iterator[str]:
    kind = "GPU" if cluster.gpu else "CPU"
    wanted, each = spec.resources.concurrent_trials, placement.units_per_trial
    has = f"{cluster.units} {kind}s"
    if cluster.cpus_per_node is not None:
        has += f" and {cluster.nodes * cluster.cpus_per_node} CPUs"
    if not placement.fit:
        if spec.resources.placement == "node" and slots_across(spec.resources, cluster):
            yield (
                f"no trial fits one node: a trial needs {need(spec.resources)}; set resources.placement: any to let "
                "trials span nodes, or lower resources.workers_per_trial"
            )
            return
        lower = "workers_per_trial" if placement.short == "GPU" else "cpus_per_worker"
        yield (
            f"no trial fits: a trial needs {need(spec.resources)}, the cluster has {has}; "
            f"lower resources.{lower} or add nodes"
        )
        return
    if placement.slots < wanted:
        lower = ", or lower resources.cpus_per_worker" if cluster.gpu and placement.short == "CPU" else ""
        yield (
            f"only {placement.slots} of {wanted} concurrent trials fit {has} ({placement.short}s are short): "
            f"set resources.concurrent_trials: {placement.slots}{lower}"
        )
    if cluster.gpu and placement.idle >= 1:
        more = placement.fit - placement.slots
        remedy = f"set resources.concurrent_trials: {placement.fit}" if more else "change workers_per_trial"
        yield f"{placement.idle:g} of {cluster.units} {kind}s are idle: {remedy}"
    if cluster.gpu and placement.across_nodes:
        yield (
            f"{placement.slots - placement.inside_node} of {placement.slots} trials have ranks on several nodes: "
            "their steps are slowed down by the network; all nodes need the same paths for model, cache and run folder"
        )
    if not cluster.gpu and placement.idle < 0:
        yield (
            f"{placement.slots} concurrent trials need {placement.slots * each:g} CPUs, but this machine has "
            f"{cluster.units}: they run slower; lower resources.concurrent_trials"
        )


def _memory(spec: SweepSpec, memory: RankMemory | None, cluster: Cluster) -> Iterator[str]:
    if memory is None:
        return
    ranks = 1
    if not cluster.gpu:
        ranks = spec.resources.workers_per_trial * spec.resources.concurrent_trials
    room = rank_room(spec.resources, cluster)
    if ranks * memory.total > room:
        adapters = largest_lora_rank(spec) > 0 and not is_quantized(spec)
        more = "set train.lora.quantize: nf4, " if adapters else ""
        what = "a GPU" if cluster.gpu else f"the total of {count(ranks, 'rank')}"
        yield (
            f"memory: {what} needs about {ranks * memory.total / GIB:.0f} GiB, available are "
            f"{room / GIB:.0f}: "
            f"lower train.micro_batch, set train.gradient_checkpointing: true, {more}or raise train.zero_stage or "
            "resources.workers_per_trial"
        )


def _learning(spec: SweepSpec, trials: int, placement: Placement) -> Iterator[str]:
    slots = max(1, placement.slots)
    sampler, rule = spec.search.sampler, spec.early_stop.rule
    quarter = max(1, trials // 4)
    if sampler in ("tpe", "gp", "cmaes"):
        from sweepft.search.samplers import startup_trials

        unguided = max(slots, 1 if sampler == "cmaes" else startup_trials(spec.search.trials))
        if unguided >= trials:
            yield (
                f"all {trials} trials are proposed before {sampler} has results to learn from, which is random search; "
                f"raise search.trials, or lower resources.concurrent_trials to {quarter}"
            )
        elif slots > quarter:
            waves = math.ceil(trials / slots)
            yield (
                f"{trials} trials, {slots} at a time, are {waves} waves: {sampler} learns only between waves; "
                f"lower resources.concurrent_trials to {quarter}, or raise search.trials to {4 * slots}"
            )
    if rule != "none" and trials <= spec.early_stop.min_peers:
        yield (
            f"early_stop.min_peers is {spec.early_stop.min_peers} of {trials} trials: no trial is ever stopped early; "
            "raise search.trials or lower min_peers"
        )
    elif rule != "none" and slots >= trials > 1:
        yield (
            f"all {trials} trials run at once: {rule} compares running trials only and learns from no "
            f"finished one; lower resources.concurrent_trials to {quarter}"
        )


def _space(spec: SweepSpec, trials: int) -> Iterator[str]:
    size = spec.space_size
    if size is not None and spec.search.trials is not None and size < spec.search.trials:
        yield (
            f"the search space has {size} combinations, fewer than search.trials {spec.search.trials}: "
            f"the sweep ends after {trials} trials"
        )
