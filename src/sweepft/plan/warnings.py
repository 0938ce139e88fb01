"""What is likely to disappoint, said before it is paid for.

One idea: a warning names what was found and what to change. It refuses nothing: that is the spec's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sweepft.plan.cluster import Cluster, Placement, rank_room
from sweepft.plan.cost import Cost
from sweepft.plan.memory import GIB, RankMemory
from sweepft.plan.row_counts import RowCount
from sweepft.plan.trial_shapes import TrialShape, configurations
from sweepft.spec import FEWEST_STEPS, SweepSpec


def count(number: float, what: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def advice(
    spec: SweepSpec,
    trial_shapes: Sequence[TrialShape],
    trials: int | None,
    budget: int,
    rows: RowCount,
    cluster: Cluster,
    placement: Placement,
    memory: RankMemory | None,
    cost: Cost | None,
) -> tuple[str, ...]:
    """Warnings, one sentence or two each."""
    found = [
        *_steps(spec, trial_shapes),
        *_cluster(spec, cluster, placement),
        *_memory(spec, memory, cluster),
    ]
    found += _strategy(spec)
    if trials is not None:
        found += [*_learning(spec, trials, placement), *_space(spec, trials)]
    if trials is not None and cost is not None and cost.trials_in_limit is not None:
        room = cost.trials_in_limit
        if room < trials:
            found.append(
                f"search.limit ends the sweep after about {room} of {trials} trials, were none stopped early"
            )
    if rows.train is not None and budget > 3 * rows.train:
        found.append(
            f"the budget is {budget / rows.train:.1f} passes over {rows.train:,} rows: expect overfitting, "
            "and losses that fall for that reason alone"
        )
    return tuple(found)


def _steps(spec: SweepSpec, trial_shapes: Sequence[TrialShape]) -> Iterator[str]:
    short = [shape_of_trial for shape_of_trial in trial_shapes if shape_of_trial.steps < FEWEST_STEPS]
    for shape_of_trial in short:
        yield (
            f"batch size {shape_of_trial.batch_size:,} takes {shape_of_trial.steps} optimizer steps, fewer than {FEWEST_STEPS}: "
            f"such a trial says little; raise train.budget to {FEWEST_STEPS * shape_of_trial.batch_size:,} samples, "
            "or leave that size out"
        )
    if spec.early_stop.rule != "none":
        yield from _rungs(spec, trial_shapes)
    for shape_of_trial in trial_shapes:
        if shape_of_trial.warmup[1] == 1:
            yield (
                f"batch size {shape_of_trial.batch_size:,}: a warmup of one step is a first step at rate zero and no more; "
                "give the warmup in steps, or a larger fraction"
            )
        elif shape_of_trial.warmup[1] > shape_of_trial.steps / 2:
            yield (
                f"batch size {shape_of_trial.batch_size:,} warms up for {shape_of_trial.warmup[1]} of {shape_of_trial.steps} steps: "
                "most of such a trial is warmup"
            )


def _rungs(spec: SweepSpec, trial_shapes: Sequence[TrialShape]) -> Iterator[str]:
    for shape_of_trial in trial_shapes:
        if not shape_of_trial.judged:
            yield (
                f"batch size {shape_of_trial.batch_size:,}: at no window has a trial done early_stop.min_steps "
                f"{spec.early_stop.min_steps} and its longest warmup: such trials are never stopped early; "
                "add a later window, shorten the warmup, or lower min_steps"
            )
    late = [c for c in trial_shapes if c.judged and len(c.judged) < len(c.rung_steps)]
    if late:
        told = ", ".join(
            f"{shape_of_trial.batch_size:,} from {shape_of_trial.judged[0]} on" for shape_of_trial in late
        )
        yield f"some batch sizes have too few steps to be judged at every window: {told}"


def _strategy(spec: SweepSpec) -> Iterator[str]:
    swept = spec.search.space.get("data.strategy")
    if swept is not None and len(swept.choices) > 1 and spec.early_stop.rule != "none":
        yield (
            f"data.strategy is swept and early_stop.rule is {spec.early_stop.rule}: at early windows a phased trial "
            "has not seen its later phases and looks worse than a stacked one; set early_stop.rule: none, or let the "
            "first window lie in the last phase"
        )


def _cluster(spec: SweepSpec, cluster: Cluster, placement: Placement) -> Iterator[str]:
    kind = "GPU" if cluster.gpu else "CPU"
    wanted, each = spec.resources.concurrent_trials, placement.units_per_trial
    if not placement.fit:
        yield (
            f"not one trial fits: it needs {count(each, kind)}, and there are {cluster.units} on "
            f"{count(cluster.nodes, 'node')}; "
            "lower resources.workers_per_trial or add nodes"
        )
        return
    if placement.slots < wanted:
        yield (
            f"{placement.slots} of {wanted} trials at once fit {cluster.units} {kind}s: "
            f"set resources.concurrent_trials: {placement.slots}"
        )
    if cluster.gpu and placement.idle >= 1:
        more = placement.fit - placement.slots
        remedy = f"set resources.concurrent_trials: {placement.fit}" if more else "change workers_per_trial"
        yield f"{placement.idle:g} of {cluster.units} {kind}s stay idle: {remedy}"
    if cluster.gpu and placement.across_nodes:
        yield (
            f"{placement.slots - placement.inside_node} of {placement.slots} trials have ranks on several nodes: "
            "their steps wait for the network; nodes must see the same paths for model, cache and run folder"
        )
    if not cluster.gpu and placement.idle < 0:
        yield (
            f"{placement.slots} trials want {placement.slots * each:g} CPUs at once and this machine has "
            f"{cluster.units}: they share them and run slower"
        )


def _memory(spec: SweepSpec, memory: RankMemory | None, cluster: Cluster) -> Iterator[str]:
    if memory is None:
        return
    ranks = 1
    if not cluster.gpu:
        ranks = spec.resources.workers_per_trial * spec.resources.concurrent_trials
    room = rank_room(spec.resources, cluster)
    if ranks * memory.total > room:
        what = "a GPU" if cluster.gpu else count(ranks, "rank")
        yield (
            f"memory: {what} would hold about {ranks * memory.total / GIB:.0f} GiB of "
            f"{room / GIB:.0f}: "
            "lower train.micro_batch, set train.gradient_checkpointing: true, or raise train.zero_stage or "
            "resources.workers_per_trial"
        )


def _learning(spec: SweepSpec, trials: int, placement: Placement) -> Iterator[str]:
    slots = max(1, placement.slots)
    sampler, rule = spec.search.sampler, spec.early_stop.rule
    quarter = max(1, trials // 4)
    if sampler in ("tpe", "gp", "cmaes"):
        from sweepft.search.samplers import startup_trials

        blind = max(slots, 1 if sampler == "cmaes" else startup_trials(spec.search.trials))
        if blind >= trials:
            yield (
                f"all {trials} trials are proposed before {sampler} has anything to learn from: this is random search; "
                f"raise search.trials, or lower resources.concurrent_trials to {quarter}"
            )
        elif slots > quarter:
            waves = math.ceil(trials / slots)
            yield (
                f"{trials} trials, {slots} at once, are {waves} waves: {sampler} learns between waves only; "
                f"lower resources.concurrent_trials to {quarter}, or raise search.trials to {4 * slots}"
            )
    if rule != "none" and trials <= spec.early_stop.min_peers:
        yield (
            f"early_stop.min_peers {spec.early_stop.min_peers} of {trials} trials: nobody is ever judged; "
            "raise search.trials or lower min_peers"
        )
    elif rule != "none" and slots >= trials > 1:
        yield (
            f"all {trials} trials run at once: {rule} can compare them only as they go, and learns from no "
            f"finished one; lower resources.concurrent_trials to {quarter}"
        )


def _space(spec: SweepSpec, trials: int) -> Iterator[str]:
    size = configurations(spec)
    if size is not None and spec.search.trials is not None and size < spec.search.trials:
        yield (
            f"the space holds {size} configurations, fewer than search.trials {spec.search.trials}: "
            f"the sweep ends after {trials}"
        )
