"""From the spec and its prepared data to the plain plans that slots and ranks work by."""

from __future__ import annotations

from pathlib import Path

from sweepft.data import Prepared
from sweepft.engine.plan import EnginePlan, HeldOutSet
from sweepft.spec import SweepSpec
from sweepft.trainable.slot import SlotPlan
from sweepft.tuner.resources import shape

__all__ = ["slot_plan"]


def slot_plan(spec: SweepSpec, prepared: Prepared, run_dir: Path) -> SlotPlan:
    """What every slot of this sweep is given."""
    engine = EnginePlan(
        model_path=spec.model.path,
        revision=spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
        vocab_size=prepared.vocab_size,
        pad_id=prepared.pad_id,
        train_cache=prepared.train.path,
        held_out=tuple(HeldOutSet(h.name, h.data.path, h.weight) for h in prepared.held_out),
        budget_samples=prepared.budget_samples,
        windows=spec.early_stop.windows,
        micro_batch=spec.train.micro_batch,
        precision=spec.train.precision,
        zero_stage=spec.train.zero_stage,
        scratch=str(run_dir / "cache" / "base"),
        longest=prepared.train.longest,
        threads=max(1, int(spec.resources.cpus_per_worker)),
    )
    return SlotPlan(engine=engine, shape=shape(spec), log_dir=str(run_dir / "logs"))
