"""TensorBoard: event files in the run folder, one folder a trial, by tensorboardX.

TensorBoard reads all files of a folder as one run, so a restarted process begins a new file.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from sweepft.files import inside
from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import flat
from sweepft.trackers.trackers import Point

_LARGEST: Final = 3.4028234e38  # of the 32 bits that an event holds


class EventFiles:
    """Scalars of every step by samples, decisions as texts, and the train config with the final metric for HPARAMS.

    Args:
        run_dir: The run folder; files go to its ``tensorboard/TRIAL``.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._library = _tensorboardx()
        self._writers: dict[str, Any] = {}

    def open(self, trial: TrialState, sweep: SweepState, before: Sequence[Point]) -> None:
        """Begin a new file of the trial."""
        folder = inside(self._run_dir, "tensorboard", trial.trial_id)
        known = len(list(folder.glob("events.*")))
        writer = self._library.SummaryWriter(str(folder), filename_suffix=f".{known}", flush_secs=3600)
        self._writers[trial.trial_id] = writer
        if not before:
            config = yaml.safe_dump(trial.train_config, sort_keys=False, allow_unicode=True)
            writer.add_text("params", f"```\n{config}```", 0, trial.proposed)

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        """Write scalars."""
        writer = self._writers[trial.trial_id]
        for point in points:
            for tag, value in point.values.items():
                writer.add_scalar(tag, _in_32_bits(value), point.samples, point.time)

    def decision(self, trial: TrialState, row: Row) -> None:
        """Write it as a text."""
        text = f"{row['action']} by {row['rule']}: {row['reason']}"
        self._writers[trial.trial_id].add_text("decision", text, int(row["samples_seen"]), row["time"])

    def close(self, trial: TrialState) -> None:
        """Close the file, with config and metric if the trial has ended."""
        from tensorboardX.summary import hparams

        writer = self._writers.pop(trial.trial_id)
        if trial.end is not None:
            config = {
                k: v if isinstance(v, (bool, int, float)) else str(v)
                for k, v in flat(trial.train_config, without=(None, {})).items()
            }
            objective = math.nan if trial.objective is None else _in_32_bits(trial.objective)
            for summary in hparams(config | {"status": trial.status}, {"validation/objective": objective}):
                writer.file_writer.add_summary(summary)
            writer.add_text("end", f"{trial.status}: {trial.reason or ''}", trial.samples_seen, trial.ended)
        writer.close()

    def flush(self) -> bool:
        """Write everything to disk."""
        for writer in self._writers.values():
            writer.flush()
        return True


def _in_32_bits(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > _LARGEST else value


def _tensorboardx() -> Any:
    """The library, imported without torch, which it would load only to recognise tensors."""
    hidden = sys.modules.get("torch")
    if "tensorboardX" not in sys.modules and hidden is None:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
        try:
            import tensorboardX
        finally:
            del sys.modules["torch"]
    import tensorboardX

    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # NaN is expected, not worth a warning
    return tensorboardX
