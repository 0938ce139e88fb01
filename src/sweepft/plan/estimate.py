"""Build the plan of a sweep from its spec and the flags of ``sweepft plan``.

Model, data and cluster are read or measured where possible; the plan lists the remaining assumptions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, Final

from sweepft.data import prepare_in_child
from sweepft.errors import SweepftError
from sweepft.plan.cluster import Cluster, Placement, gib, place, rank_room, smallest_cluster, this_machine
from sweepft.plan.cost import Cost, DiskUse, disk_uses, estimated_cost, measured_cost
from sweepft.plan.exams import Exams, exams_of
from sweepft.plan.fastest import FILLED, Fastest, Rates, Way, fastest_for
from sweepft.plan.gpus import GPUS
from sweepft.plan.measure import Measured, measure
from sweepft.plan.memory import GIB, RankMemory, rank_memory
from sweepft.plan.model_shape import ModelShape, shape_of
from sweepft.plan.row_counts import RowCount, assumed_rows, count_rows, prepared_rows
from sweepft.plan.trial_shapes import (
    TrialShape,
    adapters_drop_out,
    heaviest_optimizer,
    is_quantized,
    largest_lora_rank,
    trial_count,
    trial_shapes,
    whole_modules,
    widest_targets,
)
from sweepft.plan.warnings import count, plan_warnings
from sweepft.spec import (
    MicroTokens,
    SweepSpec,
    check_budget,
    is_hub_id,
    place_range,
    rate_rule,
    rate_warnings,
)

_RANKS_SHOWN: Final = (1, 2, 4, 8, 16, 32)
_PEAK_TFLOPS: Final = 312.0  # NVIDIA A100, bf16 without sparsity, by its data sheet
_GPUS_PER_NODE: Final = 8
_MEMORY: Final = 80.0  # GiB, of the same
_NETWORK_GBIT: Final = 100.0
_SHORT_STEP: Final = 0.05  # seconds; below this, launching kernels dominates


@dataclass(frozen=True)
class Flags:
    """Settings of a plan that are not in the spec; None means an assumption.

    Attributes:
        gpu: Name of a GPU in `GPUS`, which sets memory and peak.
        gpu_memory: GiB per GPU.
        gpus_per_node: GPUs per node; by default 8, or fewer if the spec needs fewer.
        nodes: Number of nodes; by default as many as the spec needs.
        cpus_per_node: Logical CPUs per node; by default enough.
        mfu: Model FLOPs utilisation, in (0, 1].
        peak_tflops: Peak of one GPU in the training precision, in 1e12 FLOP/s.
        network: Gbit/s between nodes.
        parameters: Number of parameters, if the model is not on this machine.
        tokens: Mean tokens per row.
        rows: Training rows, if the data are not on this machine.
        files: Whether to read model and data files.
        measure: Whether to time real optimizer steps on this machine.
    """

    gpu: str | None = None
    gpu_memory: float | None = None
    gpus_per_node: int | None = None
    nodes: int | None = None
    cpus_per_node: int | None = None
    mfu: float = 0.4
    peak_tflops: float | None = None
    network: float | None = None
    parameters: int | None = None
    tokens: float | None = None
    rows: int | None = None
    files: bool = True
    measure: bool = False


@dataclass(frozen=True)
class SweepPlan:
    """The plan of a sweep. ``--json`` writes :meth:`to_dict`; docs/reference/plan-json.md documents its keys."""

    spec: SweepSpec
    trials: int | None
    budget: int
    model: ModelShape | None
    rows: RowCount
    trial_shapes: tuple[TrialShape, ...]
    cluster: Cluster
    placement: Placement
    micro_batch: int
    memory: RankMemory | None
    grid: Mapping[int, Mapping[int, int]]
    disk: tuple[DiskUse, ...]
    cost: Cost | None
    measured: Measured | None
    warnings: tuple[str, ...]
    fastest: Fastest | None = None
    exams: Exams | None = None
    rates: str | None = None
    assumptions: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with units in the key names."""
        cost = self.cost
        tokens = self.budget * self.rows.tokens
        return {
            "name": self.spec.name,
            "trials": self.trials,
            "model": None if self.model is None else asdict(self.model),
            "data": {key: value for key, value in asdict(self.rows).items() if key != "warnings"},
            "budget": {"samples": self.budget, "tokens": round(tokens)},
            "batch_sizes": [asdict(trial) for trial in self.trial_shapes],
            "cluster": asdict(self.cluster),
            "placement": asdict(self.placement) | {"across_nodes": self.placement.across_nodes},
            "memory": None
            if self.memory is None
            else {
                "micro_batch": self.micro_batch,
                "rank_bytes": asdict(self.memory) | {"total": self.memory.total},
                "gib_by_stage_and_ranks": {
                    stage: {ranks: gib(size) for ranks, size in row.items()}
                    for stage, row in self.grid.items()
                },
            },
            "disk": [asdict(use) for use in self.disk],
            "cost": None
            if cost is None
            else asdict(cost)
            | {
                "unit_hours_after_stopping": cost.after_stopping(cost.unit_hours),
                "hours_after_stopping": None if cost.hours is None else cost.after_stopping(cost.hours),
            },
            "fastest": None if self.fastest is None else asdict(self.fastest),
            "exams": None if self.exams is None else asdict(self.exams),
            "measured": None if self.measured is None else asdict(self.measured),
            "rates": self.rates,
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
        }


def make_plan(spec: SweepSpec, flags: Flags) -> SweepPlan:
    """Plan a sweep.

    Args:
        spec: The loaded spec; its files need not exist if ``flags.files`` is False.
        flags: Further settings.

    Raises:
        SweepftError: If the budget in samples is unknown (``plan.rows``), the size of the model is (``plan.params``),
            or steps cannot be measured (``plan.measure``).
    """
    assumed: list[str] = []
    if flags.gpu is not None:
        named = GPUS[flags.gpu]
        flags = replace(
            flags,
            gpu_memory=flags.gpu_memory or named.memory,
            peak_tflops=flags.peak_tflops or named.tflops * (1.0 if spec.train.precision == "bf16" else 0.5),
        )
    rule = rate_rule(spec) if flags.files else None
    cluster = _cluster(spec, flags, assumed)
    placement = place(spec.resources, cluster)
    if cluster.gpu and cluster.cpus_per_node is None and placement.slots:
        assumed.append(
            f"a node has the {placement.cpus_per_node:g} CPUs that its ranks take (--cpus-per-node)"
        )
    model = _model(spec, flags, assumed)
    measured = None
    if flags.measure:
        rows, budget, measured = _measured(spec, cluster, placement)
    else:
        rows = _rows(spec, flags, assumed)
        budget = _budget(spec, rows, assumed)
    found = trial_shapes(spec, budget)
    trials = trial_count(spec)
    micro = _micro_batch(spec, model, rows, cluster, measured, assumed)
    memory = None if model is None else _memory(spec, model, rows, micro, cluster)
    cost = _cost(spec, flags, model, rows, budget, found, placement, trials, measured, assumed)
    expected = trials or (cost.trials_in_limit if cost is not None else None) or 0
    return SweepPlan(
        spec=spec,
        trials=trials,
        budget=budget,
        model=model,
        rows=rows,
        trial_shapes=found,
        cluster=cluster,
        placement=placement,
        micro_batch=micro,
        memory=memory,
        grid={} if model is None else _grid(spec, model, rows, micro, cluster),
        disk=disk_uses(spec, model, rows, found, placement, cluster, expected),
        cost=cost,
        measured=measured,
        warnings=(
            *rows.warnings,
            *plan_warnings(spec, found, trials, budget, rows, cluster, placement, memory, cost, model),
            *rate_warnings(spec, rule),
            *(
                f"sweepft run will refuse this: {p.key}: {p.rule}; {p.remedy}"
                for p in check_budget(spec, budget, rows.train)
            ),
        ),
        fastest=None
        if model is None
        else _fastest(spec, flags, model, rows, micro, cluster, placement, assumed),
        exams=None
        if model is None or memory is None
        else _exams(spec, flags, model, rows, memory, cluster, placement, assumed),
        rates=None if rule is None else place_range(spec, rule),
        assumptions=tuple(assumed),
    )


def _cluster(spec: SweepSpec, flags: Flags, assumed: list[str]) -> Cluster:
    if spec.resources.gpus_per_worker == 0:
        return this_machine()
    memory, per_node = flags.gpu_memory or _MEMORY, flags.gpus_per_node or _GPUS_PER_NODE
    if flags.gpu_memory is None:
        assumed.append(f"GPUs of {memory:g} GiB (--gpu, or --gpu-memory)")
    if flags.gpus_per_node is None:
        if flags.nodes is None:  # a spec that uses part of a node should not be warned about the rest
            r = spec.resources
            per_node = min(per_node, ceil(r.concurrent_trials * r.workers_per_trial * r.gpus_per_worker))
        assumed.append(f"{count(per_node, 'GPU')} per node (--gpus-per-node)")
    size, cpus = round(memory * GIB), flags.cpus_per_node
    if flags.nodes is not None:
        return Cluster(flags.nodes, per_node, size, gpu=True, cpus_per_node=cpus)
    asked = smallest_cluster(spec.resources, per_node, size, cpus)
    assumed.append(f"{count(asked.nodes, 'node')}, as many as the spec needs (--nodes)")
    return asked


def _model(spec: SweepSpec, flags: Flags, assumed: list[str]) -> ModelShape | None:
    model = shape_of(spec.model, flags.parameters, look=flags.files)
    if model is None:
        assumed.append(
            "the size of the model is unknown: memory, time and its files are not estimated (--params 3B)"
        )
    elif not model.known:
        exact = (
            f"; for exact figures: hf download {spec.model.path} config.json"
            if is_hub_id(spec.model.path)
            else ""
        )
        assumed.append(f"{model.parameters / 1e9:.3g} B parameters: {model.source}{exact}")
    return model


def _rows(spec: SweepSpec, flags: Flags, assumed: list[str]) -> RowCount:
    rows = count_rows(spec, flags.tokens) if flags.files else assumed_rows(spec, flags.tokens, flags.rows)
    if rows.train is None and flags.rows is not None:
        rows = assumed_rows(spec, flags.tokens, flags.rows)
    if flags.tokens is None and not rows.known:
        assumed.append(f"{rows.tokens:g} tokens per row (--tokens-per-sample){rows.trouble}")
    if rows.validation is None:
        assumed.append("the number of validation rows is unknown: evaluation time is not included (--rows)")
    return rows


def _budget(spec: SweepSpec, rows: RowCount, assumed: list[str]) -> int:
    budget = spec.train.budget
    if budget.samples is not None:
        return budget.samples
    if budget.epochs is not None:
        if rows.train is None:
            raise SweepftError(
                "train.budget.epochs: the number of training rows is unknown, the data are not on this machine\n"
                "  set it with --rows 300000",
                key="plan.rows",
            )
        return max(1, round(budget.epochs * rows.train))
    assert budget.tokens is not None
    if not rows.known:
        assumed.append("half of the tokens of a row have a loss")
    return max(1, round(budget.tokens / rows.targets))


def _measured(spec: SweepSpec, cluster: Cluster, placement: Placement) -> tuple[RowCount, int, Measured]:
    here = place(spec.resources, replace(cluster, nodes=1)).slots if cluster.gpu else placement.slots
    if not here:
        raise SweepftError(
            f"--measure: a trial of {spec.resources.workers_per_trial} ranks must fit one node of "
            f"{count(cluster.units_per_node, 'GPU')}\n"
            "  lower resources.workers_per_trial for the measurement with --set",
            key="plan.measure",
        )
    with tempfile.TemporaryDirectory(prefix="sweepft-plan-cache-") as folder:
        prepared = prepare_in_child(spec, Path(folder))
        found = measure(spec, prepared, here)
        return prepared_rows(prepared), prepared.budget_samples, found


def _memory(
    spec: SweepSpec,
    model: ModelShape,
    rows: RowCount,
    micro: int,
    cluster: Cluster,
    *,
    stage: int | None = None,
    ranks: int | None = None,
    checkpointing: bool | None = None,
) -> RankMemory:
    """Memory of one rank; by default with the ZeRO stage, number of ranks and checkpointing of the spec."""
    return rank_memory(
        model,
        stage=spec.train.zero_stage if stage is None else stage,
        precision=spec.train.precision,
        ranks=ranks or spec.resources.workers_per_trial,
        rows=-(-micro // rows.longest) if isinstance(spec.train.micro_batch, MicroTokens) else micro,
        tokens=rows.longest,
        lora_rank=largest_lora_rank(spec),
        optimizer=heaviest_optimizer(spec),
        offload=spec.train.offload,
        lora_targets=widest_targets(spec),
        lora_dropout=adapters_drop_out(spec),
        quantized=is_quantized(spec),
        saved=whole_modules(spec),
        checkpointing=spec.train.gradient_checkpointing if checkpointing is None else checkpointing,
        gpu=cluster.gpu,
        at_best=spec.objective.at == "best",
    )


def _micro_batch(
    spec: SweepSpec,
    model: ModelShape | None,
    rows: RowCount,
    cluster: Cluster,
    measured: Measured | None,
    assumed: list[str],
) -> int:
    """Rows per micro-batch (tokens if packed). For ``auto``: the measured value, or the largest power of two that
    fits.
    """
    if measured is not None:
        return measured.micro_batch
    given = spec.train.micro_batch
    if isinstance(given, MicroTokens):
        return given.tokens
    if isinstance(given, int):
        return given
    if model is None:
        return 1
    micro = 1
    while micro < 1024 and cluster.gpu:
        wanted = _memory(spec, model, rows, 2 * micro, cluster)
        if wanted.total > FILLED * rank_room(spec.resources, cluster):
            break
        micro *= 2
    assumed.append(f"micro_batch auto is {micro}")
    return micro


def _fastest(
    spec: SweepSpec,
    flags: Flags,
    model: ModelShape,
    rows: RowCount,
    micro: int,
    cluster: Cluster,
    placement: Placement,
    assumed: list[str],
) -> Fastest | None:
    """The fastest ZeRO stage, micro-batch and checkpointing; None on CPUs, with offload, and where no trial fits."""
    if not cluster.gpu or spec.train.offload != "none" or not placement.slots:
        return None
    gpu, across = GPUS[flags.gpu or "a100"], placement.across_nodes
    network = _NETWORK_GBIT if flags.network is None else flags.network
    rates = _rates(flags, placement)
    if across and flags.network is None:
        assumed.append(f"{network:g} Gbit/s between nodes (--network)")
    elif not across and spec.resources.workers_per_trial > 1 and flags.gpu is None:
        assumed.append(f"GPUs of a node exchange {gpu.link:g} GB/s, as A100s with NVLink do (--gpu)")

    def memory(way: Way) -> int:
        stage, recomputed = way.zero_stage, way.gradient_checkpointing
        found = _memory(spec, model, rows, way.micro_batch, cluster, stage=stage, checkpointing=recomputed)
        return found.total

    return fastest_for(spec, model, rows, micro, rates, memory, rank_room(spec.resources, cluster))


def _rates(flags: Flags, placement: Placement) -> Rates:
    """What a rank on a GPU does in a second."""
    gpu, network = GPUS[flags.gpu or "a100"], _NETWORK_GBIT if flags.network is None else flags.network
    return Rates(
        flops=(flags.peak_tflops or _PEAK_TFLOPS) * 1e12 * flags.mfu,
        reads=gpu.reads * 1e12,
        link=network * 1e9 / 8 if placement.across_nodes else gpu.link * 1e9,
    )


def _exams(
    spec: SweepSpec,
    flags: Flags,
    model: ModelShape,
    rows: RowCount,
    memory: RankMemory,
    cluster: Cluster,
    placement: Placement,
    assumed: list[str],
) -> Exams | None:
    """The evaluation of the finalists; None without one, and on CPUs, whose speed is not known."""
    if not cluster.gpu:
        return None
    room = rank_room(spec.resources, cluster)
    return exams_of(spec, model, rows, memory, room, placement, _rates(flags, placement), assumed)


def _grid(
    spec: SweepSpec, model: ModelShape, rows: RowCount, micro: int, cluster: Cluster
) -> dict[int, dict[int, int]]:
    """Bytes per rank by ZeRO stage and number of ranks. A spec cannot combine stage 0 with bf16, nor 3 with QLoRA."""
    first, last = (0 if spec.train.precision == "fp32" else 1), (2 if is_quantized(spec) else 3)
    own = spec.resources.workers_per_trial
    ranks = sorted({n for n in _RANKS_SHOWN if n <= max(8, own)} | {own})
    return {
        stage: {n: _memory(spec, model, rows, micro, cluster, stage=stage, ranks=n).total for n in ranks}
        for stage in range(first, last + 1)
    }


def _cost(
    spec: SweepSpec,
    flags: Flags,
    model: ModelShape | None,
    rows: RowCount,
    budget: int,
    found: tuple[TrialShape, ...],
    placement: Placement,
    trials: int | None,
    measured: Measured | None,
    assumed: list[str],
) -> Cost | None:
    if measured is not None:
        points = spec.evaluation_points(budget, rows.train)
        return measured_cost(spec, found, measured, placement, trials, points)
    if spec.resources.gpus_per_worker == 0:
        assumed.append("time is not estimated for trials on CPUs (--measure)")
        return None
    if model is None:
        return None
    if flags.peak_tflops is None:
        assumed.append(
            f"{_PEAK_TFLOPS:g} TFLOP/s per GPU, the peak of an A100 in bf16 (--gpu h100, or --peak-tflops)"
        )
    assumed.append(f"{flags.mfu:.0%} of the peak is reached (--mfu)")
    peak = flags.peak_tflops or _PEAK_TFLOPS
    cost = estimated_cost(spec, model, rows, budget, placement, trials, peak_tflops=peak, mfu=flags.mfu)
    step = cost.trial_seconds / max(trial.steps for trial in found)
    if step < _SHORT_STEP:
        assumed.append(
            f"steps of {1000 * step:.1g} ms by their FLOPs: overheads, which dominate such short steps, "
            "are not included "
            "(--measure)"
        )
    return cost
