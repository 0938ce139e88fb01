"""From the spec and its prepared data to the plain plans that slots and ranks work by."""

from __future__ import annotations

import os
from pathlib import Path

from sweepft.data import Prepared
from sweepft.engine.plan import EnginePlan, HeldOutSet
from sweepft.evaluate import TaskPlan
from sweepft.spec import CheckpointEvery, MicroTokens, SweepSpec
from sweepft.trainable.keep import KeepPlan
from sweepft.trainable.slot import SlotPlan
from sweepft.trainable.states import StatePlan
from sweepft.tuner.resources import shape

__all__ = ["keep_plan", "slot_plan", "state_plan", "task_plans"]


def slot_plan(spec: SweepSpec, prepared: Prepared, run_dir: Path) -> SlotPlan:
    """What every slot of this sweep is given."""
    engine = EnginePlan(
        model_path=spec.model.path,
        revision=spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
        allow_pickle=spec.model.allow_pickle,
        vocab_size=prepared.vocab_size,
        pad_id=prepared.pad_id,
        train_cache=prepared.train.path,
        held_out=tuple(HeldOutSet(h.name, h.data.path, h.weight) for h in prepared.held_out),
        budget_samples=prepared.budget_samples,
        windows=spec.early_stop.windows,
        micro_batch=_micro_batch(spec.train.micro_batch),
        packed=isinstance(spec.train.micro_batch, MicroTokens),
        largest_batch=_largest_batch(spec),
        precision=spec.train.precision,
        zero_stage=spec.train.zero_stage,
        offload=spec.train.offload,
        liger=spec.train.liger,
        compiled=spec.train.compile,
        scratch=str(run_dir / "base"),
        longest=prepared.train.longest,
        threads=max(1, int(spec.resources.cpus_per_worker)),
    )
    bench = spec.evaluate.mt_bench if spec.evaluate is not None else None
    return SlotPlan(
        judge_key=os.environ.get(bench.key_env) if bench is not None else None,
        engine=engine,
        shape=shape(spec),
        log_dir=str(run_dir / "logs"),
        keep=keep_plan(spec, prepared, run_dir),
        states=state_plan(spec, run_dir),
        max_faults=spec.faults.per_trial,
        hang_seconds=spec.faults.hang_seconds,
    )


def _micro_batch(given: int | str | MicroTokens) -> int:
    """Rows or tokens; 0 is to be found."""
    if isinstance(given, MicroTokens):
        return given.tokens
    return given if isinstance(given, int) else 0


def _largest_batch(spec: SweepSpec) -> int:
    """The largest global batch a trial may have: swept ones are choices, fixed ones stand in ``train``."""
    sizes = [entry["batch_size"] for entry in spec.search.start_with if "batch_size" in entry]
    swept = spec.search.space.get("batch_size")
    sizes += [int(value) for value in swept.choice or ()] if swept is not None else []
    return max([*map(int, sizes), spec.train.batch_size or 1])


def keep_plan(spec: SweepSpec, prepared: Prepared, run_dir: Path) -> KeepPlan:
    """Whose weights this sweep keeps, finalists among them; slots and driver go by the same plan."""
    return KeepPlan(
        folder=str(run_dir / "weights"),
        tokenizer=prepared.tokenizer,
        top=spec.kept.top,
        random=spec.kept.random,
        seed=spec.search.seed,
    )


def task_plans(spec: SweepSpec) -> list[TaskPlan]:
    """The benchmark tasks of the finalists."""
    if spec.evaluate is None:
        return []
    return [
        TaskPlan(
            name=task.name,
            include_path=spec.evaluate.include_path,
            limit=task.limit,
            num_fewshot=task.num_fewshot,
            chat_template=task.chat_template is not False,
            batch_size=spec.evaluate.batch_size,
        )
        for task in spec.evaluate.each_task()
    ]


def state_plan(spec: SweepSpec, run_dir: Path) -> StatePlan:
    """When trials' states are written, and where."""
    folder = str(run_dir / "checkpoints")
    if isinstance(spec.checkpoint, CheckpointEvery):
        return StatePlan(folder, "every", 60.0 * spec.checkpoint.minutes)
    return StatePlan(folder, spec.checkpoint)
