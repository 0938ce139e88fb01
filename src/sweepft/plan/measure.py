"""Ten real optimizer steps of each batch size, in processes of their own, as the sweep's slots would take them.

One idea: the same ranks, engine, data and order as in a sweep, as many slots at once as would run on this machine;
only Ray's own scheduling is left out. Nothing heavy is loaded here: the processes are children of
``python -m sweepft.plan.ranks``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sweepft.data import Prepared
from sweepft.errors import SweepftError
from sweepft.spec import SweepSpec

__all__ = ["Measured", "measure"]


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        step_seconds: Mean seconds of an optimizer step, by batch size.
        evaluate_seconds: Seconds of one evaluation of all held-out sets.
        start_seconds: Seconds from a slot's start to its first trial's first step.
        peak_bytes: The most memory a rank held (resident, or reserved on its GPU).
        micro_batch: Rows a rank ran at once.
        steps: Fewest steps that were timed of a batch size.
        slots: Slots at work at the same time.
    """

    step_seconds: Mapping[int, float]
    evaluate_seconds: float
    start_seconds: float
    peak_bytes: int
    micro_batch: int
    steps: int
    slots: int


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
        done = subprocess.run(
            [sys.executable, "-m", "sweepft.plan.ranks"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(outcome.read_text()) if outcome.is_file() else {}
    if "error" in found or not found:
        tail = found.get("error") or "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise SweepftError(f"measuring optimizer steps failed:\n{tail}")
    seconds = {int(size): sum(taken) / len(taken) for size, taken in found["steps"].items()}
    return Measured(
        step_seconds=seconds,
        evaluate_seconds=found["evaluate_seconds"],
        start_seconds=found["start_seconds"],
        peak_bytes=found["peak_bytes"],
        micro_batch=found["micro_batch"],
        steps=min(len(taken) for taken in found["steps"].values()),
        slots=slots,
    )
