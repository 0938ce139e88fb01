"""From the spec and its prepared data to the plain configurations of slots and ranks, and to what they take of a
cluster.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from sweepft.data import Prepared
from sweepft.driver.node_health import SlotPlacement
from sweepft.evaluation import EvalTask, OwnTask
from sweepft.evaluation.tasks import batch_size_of
from sweepft.ledger import Objective
from sweepft.slot.checkpoints import CheckpointPolicy
from sweepft.slot.group import WorkerShape
from sweepft.slot.jobs import ObjectiveTask
from sweepft.slot.state import SlotConfig
from sweepft.slot.weight_retention import KeepPolicy
from sweepft.spec import CheckpointEvery, MicroTokens, OwnMetric, SweepSpec, TaskMetric
from sweepft.training.config import EngineConfig, ValidationSet


def shape(spec: SweepSpec) -> WorkerShape:
    """The ranks of one slot."""
    r = spec.resources
    return WorkerShape(r.workers_per_trial, r.cpus_per_worker, r.gpus_per_worker, dict(r.env))


def placement(spec: SweepSpec) -> SlotPlacement:
    """Placement of one slot: a bundle for each rank. The coordinator takes nothing and lies beside rank 0."""
    ranks = shape(spec)
    bundle = {"CPU": ranks.cpus} | ({"GPU": ranks.gpus} if ranks.gpus else {})
    strategy = "PACK" if spec.resources.placement == "any" else "STRICT_PACK"
    return SlotPlacement([{}, *[bundle] * ranks.workers], strategy=strategy)


def local_cpus(spec: SweepSpec) -> tuple[int, str | None]:
    """Logical CPUs to give a local Ray, and a warning when there are fewer real ones."""
    ranks, slots = shape(spec), spec.resources.concurrent_trials
    needed = math.ceil(slots * ranks.workers * ranks.cpus)
    real = os.cpu_count() or 1
    warning = None
    if needed > real:
        warning = (
            f"{slots} trials x {ranks.workers} ranks x {ranks.cpus:g} CPUs need {needed} CPUs, "
            f"and this machine has {real}: ranks share them and are slower; "
            "lower resources.concurrent_trials or workers_per_trial"
        )
    return max(needed, real), warning


def slot_config(spec: SweepSpec, prepared: Prepared, run_dir: Path) -> SlotConfig:
    """The configuration of every slot of a sweep."""
    lora = spec.train.lora
    engine = EngineConfig(
        model_path=spec.model.path,
        revision=spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
        allow_pickle=spec.model.allow_pickle,
        vocab_size=prepared.vocab_size,
        new_tokens=prepared.new_ids,
        pad_id=prepared.pad_id,
        end_ids=prepared.end_ids,
        train_cache=prepared.train.path,
        validation=tuple(ValidationSet(h.name, h.data.path, h.weight) for h in prepared.validation),
        budget_samples=prepared.budget_samples,
        rungs=spec.evaluation_points(prepared.budget_samples, prepared.train.rows),
        micro_batch=_micro_batch(spec.train.micro_batch),
        packed=isinstance(spec.train.micro_batch, MicroTokens),
        largest_batch=max(spec.batch_sizes, default=1),
        precision=spec.train.precision,
        zero_stage=spec.train.zero_stage,
        offload=spec.train.offload,
        liger=spec.train.liger,
        compiled=spec.train.compile,
        quantize=None if lora is None else lora.quantize,
        kept_whole=() if lora is None else lora.modules_to_save,
        scratch=str(run_dir / "base"),
        longest=prepared.train.longest,
        threads=max(1, int(spec.resources.cpus_per_worker)),
    )
    bench = spec.evaluate.mt_bench if spec.evaluate is not None else None
    return SlotConfig(
        judge_key=os.environ.get(bench.key_env) if bench is not None else None,
        engine=engine,
        shape=shape(spec),
        log_dir=str(run_dir / "logs"),
        keep=keep_policy(spec, prepared, run_dir),
        checkpoints=checkpoint_policy(spec, run_dir),
        at_best=spec.objective.at == "best",
        max_faults=spec.faults.per_trial,
        hang_seconds=spec.faults.hang_seconds,
        objective=objective_task(spec, prepared.tokenizer),
        measured=further_tasks(spec, prepared.tokenizer),
    )


def _micro_batch(given: int | str | MicroTokens) -> int:
    """Rows or tokens; 0 means that the ranks find the rows that fit."""
    if isinstance(given, MicroTokens):
        return given.tokens
    return given if isinstance(given, int) else 0


def keep_policy(spec: SweepSpec, prepared: Prepared, run_dir: Path) -> KeepPolicy:
    """Which trials' weights to keep, finalists included; slots and driver use the same policy."""
    return KeepPolicy(
        folder=str(run_dir / "weights"),
        tokenizer=prepared.tokenizer,
        top=spec.kept.top,
        random=spec.kept.random,
        seed=spec.search.seed,
        pareto=spec.kept.pareto,
        bounded=tuple(spec.search.subject_to),
        baseline=spec.baseline_finalist,
        objective=objective_of(spec),
    )


def objective_of(spec: SweepSpec) -> Objective:
    """The objective as the ledger's readers know it."""
    return Objective.of({"objective": spec.objective.model_dump(mode="json", exclude_none=True)})


def objective_task(spec: SweepSpec, tokenizer: str) -> ObjectiveTask | None:
    """The task that trials are judged by; None for the validation loss."""
    own = spec.objective.task
    if own is None:
        return None
    return _measured(spec, spec.objective.key, own, tokenizer, spec.objective.mode == "max")


def further_tasks(spec: SweepSpec, tokenizer: str) -> tuple[ObjectiveTask, ...]:
    """The other tasks that trials are measured on."""
    return tuple(
        _measured(spec, f"objective.measure.{i}", wanted, tokenizer, not wanted.lower_is_better)
        for i, wanted in enumerate(spec.objective.measure)
    )


def measured_by_name(spec: SweepSpec, tokenizer: str) -> dict[str, ObjectiveTask]:
    """All tasks that trials are measured on, by name."""
    own = objective_task(spec, tokenizer)
    every = (*([] if own is None else [own]), *further_tasks(spec, tokenizer))
    return {one.task.name: one for one in every}


def _measured(
    spec: SweepSpec, place: str, wanted: TaskMetric | OwnMetric, tokenizer: str, higher_is_better: bool
) -> ObjectiveTask:
    if isinstance(wanted, OwnMetric):
        own = OwnTask.of(wanted, spec.name, place)
        return ObjectiveTask(own, wanted.names[1], tokenizer, higher_is_better)
    task = EvalTask(
        name=wanted.task,
        include_path=wanted.include_path,
        limit=wanted.limit,
        num_fewshot=wanted.num_fewshot,
        chat_template=wanted.chat_template,
        batch_size=batch_size_of(wanted.batch_size),
        place=f"{place}.task",
    )
    return ObjectiveTask(task, wanted.metric, tokenizer, higher_is_better)


def eval_tasks(spec: SweepSpec) -> list[EvalTask]:
    """The benchmark tasks that finalists are scored on."""
    if spec.evaluate is None:
        return []
    return [
        EvalTask(
            name=task.name,
            include_path=spec.evaluate.include_path,
            limit=task.limit,
            num_fewshot=task.num_fewshot,
            chat_template=task.chat_template is not False,
            batch_size=batch_size_of(spec.evaluate.batch_size),
        )
        for task in spec.evaluate.each_task()
    ]


def checkpoint_policy(spec: SweepSpec, run_dir: Path) -> CheckpointPolicy:
    """When trials are checkpointed, and where."""
    folder = str(run_dir / "checkpoints")
    if isinstance(spec.checkpoint, CheckpointEvery):
        return CheckpointPolicy(folder, "every", 60.0 * spec.checkpoint.minutes)
    return CheckpointPolicy(folder, spec.checkpoint)
