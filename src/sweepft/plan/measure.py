"""Measure ten real optimizer steps of each batch size, in child processes, as the sweep's slots would take them.

Ranks, engine, data and order are those of the sweep, with as many slots at once as would run on this machine. Ray is
started only to time its start. Nothing heavy is loaded here: the ranks are children of
``python -m sweepft.plan.measure_ranks``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweepft.bounded_json import read_json_file
from sweepft.children import run_module
from sweepft.data import Prepared
from sweepft.errors import SweepftError
from sweepft.spec import SweepSpec


@dataclass(frozen=True)
class Measured:
    """Measured times and memory.

    Attributes:
        step_seconds: Mean seconds of an optimizer step, by batch size.
        evaluate_seconds: Seconds of one evaluation of all validation sets.
        start_seconds: Seconds from the sweep's start to the first step of a slot's first trial: Ray, ranks, engine.
        peak_bytes: Peak memory of a rank (resident, or reserved on its GPU).
        micro_batch: Rows of a micro-batch.
        steps: Minimum number of steps timed for a batch size.
        slots: Concurrent slots.
        slots_per_gpu: Concurrent slots on one GPU; 1 where none is shared.
        alone_step_seconds: As ``step_seconds``, with a single slot; None where no GPU is shared.
        switch_seconds: Seconds to reset a warm engine for the next trial.
        objective_seconds: Seconds of one measurement of all tasks that trials are measured on, with the base model; 0
            without any.
    """

    step_seconds: Mapping[int, float]
    evaluate_seconds: float
    start_seconds: float
    peak_bytes: int
    micro_batch: int
    steps: int
    slots: int
    slots_per_gpu: int = 1
    alone_step_seconds: Mapping[int, float] | None = None
    switch_seconds: float = 0.0
    objective_seconds: float = 0.0

    @property
    def sharing_gain(self) -> float | None:
        """Throughput of a GPU with its slots at once, relative to one slot; mean over batch sizes."""
        if self.alone_step_seconds is None:
            return None
        kept = [alone / self.step_seconds[size] for size, alone in self.alone_step_seconds.items()]
        return self.slots_per_gpu * sum(kept) / len(kept)


def measure(
    spec: SweepSpec, prepared: Prepared, slots: int, *, steps: int = 10, most_seconds: float = 60.0
) -> Measured:
    """Time optimizer steps of every batch size of a sweep on this machine.

    Args:
        spec: The sweep.
        prepared: Its tokenised data.
        slots: Trials at the same time on this machine.
        steps: To time a batch size.
        most_seconds: Fewer steps are timed where that many would take longer; never less than one.

    Raises:
        SweepftError: If a rank failed; its last words are in the message.
    """
    found = _run(spec, prepared, slots, steps, most_seconds)
    each = spec.resources.gpus_per_worker
    shared = 0 < each < 1 and slots > 1
    alone = _run(spec, prepared, 1, steps, most_seconds) if shared else None
    return Measured(
        step_seconds=_means(found),
        evaluate_seconds=found["evaluate_seconds"],
        start_seconds=found["start_seconds"],
        peak_bytes=found["peak_bytes"],
        micro_batch=found["micro_batch"],
        steps=min(len(taken) for taken in found["steps"].values()),
        slots=slots,
        slots_per_gpu=min(int(1 / each + 1e-9), slots) if shared else 1,
        alone_step_seconds=None if alone is None else _means(alone),
        switch_seconds=found["switch_seconds"],
        objective_seconds=found["objective_seconds"],
    )


def _run(
    spec: SweepSpec, prepared: Prepared, slots: int, steps: int, most_seconds: float
) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sweepft-plan-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {
            "spec": spec.to_dict(),
            "prepared": prepared.model_dump(mode="json"),
            "folder": folder,
            "outcome": str(outcome),
            "slots": slots,
            "steps": steps,
            "most_seconds": most_seconds,
        }
        done = run_module("sweepft.plan.measure_ranks", job=job)
        found: dict[str, Any] = read_json_file(outcome) if outcome.is_file() else {}
    if "error" in found or not found:
        raise SweepftError(f"measuring optimizer steps failed:\n{found.get('error') or done.tail}")
    return found


def _means(found: Mapping[str, Any]) -> dict[int, float]:
    return {int(size): sum(taken) / len(taken) for size, taken in found["steps"].items()}
