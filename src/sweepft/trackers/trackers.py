"""The interface of a tracker, and the trackers there are."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from sweepft.files import inside
from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import Track

_TRAIN: Final = ("loss", "grad_norm", "lr")


@dataclass(frozen=True)
class Point:
    """Numbers of one trial at one optimizer step.

    Attributes:
        step: Optimizer steps done.
        samples: Training samples seen, the x axis.
        time: Unix seconds.
        values: By tag: ``train/loss``, ``train/grad_norm``, ``train/lr``; ``validation/SET``, ``validation/objective``.
        validation: Whether it is an evaluation rather than a training step.
    """

    step: int
    samples: int
    time: float
    values: dict[str, float]
    validation: bool = False


def step_points(row: Row) -> list[Point]:
    """One point for every optimizer step of a `steps` row; the row's time is that of the last."""
    return _points(row["history"], row["time"])


def eval_point(row: Row) -> Point:
    """The validation losses and tasks of an `eval` row."""
    values = {f"validation/{name}": float(found["loss"]) for name, found in row["sets"].items()}
    tasks = {name: one["value"] for name, one in (row.get("tasks") or {}).items()}
    values |= {f"task/{name}": float(value) for name, value in tasks.items() if value is not None}
    if row["objective"] is not None:
        values["validation/objective"] = float(row["objective"])
    return Point(int(row["step"]), int(row["samples_seen"]), row["time"], values, validation=True)


def points_of(trial: TrialState) -> list[Point]:
    """All points of a trial, in the order of its steps; an evaluation follows its step."""
    history = {key: values.tolist() for key, values in trial.history.items()}
    found = _points(history, trial.evals[-1]["time"] if trial.evals else trial.proposed)
    found += [eval_point(row) for row in trial.evals]
    return sorted(found, key=lambda point: (point.step, point.validation))


def sweep_id(sweep: SweepState) -> str:
    """Ten characters that identify a sweep."""
    header = sweep.header
    text = f"{header.get('name')}\n{header.get('spec_digest')}\n{header.get('time')}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _points(history: Mapping[str, Sequence[float]], last: float) -> list[Point]:
    steps = history["step"]
    times = [last] * len(steps)
    for i in range(len(steps) - 1, 0, -1):
        seconds = history["seconds"][i]
        times[i - 1] = times[i] - (seconds if math.isfinite(seconds) else 0.0)
    columns = {key: history[key] for key in _TRAIN}
    return [
        Point(
            int(step), int(samples), at, {f"train/{key}": float(values[i]) for key, values in columns.items()}
        )
        for i, (step, samples, at) in enumerate(zip(steps, history["samples_seen"], times, strict=True))
    ]


class Tracker(Protocol):
    """One tool. An exception in a method ends the copying to this tool, and nothing else."""

    def open(self, trial: TrialState, sweep: SweepState, before: Sequence[Point]) -> None:
        """A trial begins to report, or continues after a pause.

        Args:
            trial: The trial.
            sweep: The sweep; ``header`` and ``spec`` are set.
            before: Its points that were sent earlier.
        """

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        """Receive points of an open trial, each once, in the order of its steps."""

    def decision(self, trial: TrialState, row: Row) -> None:
        """Receive a decision on an open trial other than to continue."""

    def close(self, trial: TrialState) -> None:
        """An open trial has ended or paused; see ``trial.status``, ``reason`` and ``objective``."""

    def flush(self) -> bool:
        """Make sure that received data survive a crash of this process.

        Returns:
            True if they do; False if only closed trials do. Open ones are then sent again completely after a crash.
        """
        ...


def make_trackers(track: Track, run_dir: Path) -> dict[str, Callable[[], Tracker]]:
    """Constructors of the trackers in a spec, by name; heavy libraries are imported when one is called."""
    makers: dict[str, Callable[[], Tracker]] = {}
    if track.tensorboard:
        makers["tensorboard"] = partial(_tensorboard, run_dir)
    if track.wandb is not None:
        makers["wandb"] = partial(_wandb, track, run_dir)
    if track.mlflow is not None:
        makers["mlflow"] = partial(_mlflow, track, run_dir)
    if track.trackio is not None:
        makers["trackio"] = partial(_trackio, track, run_dir)
    return makers


def _tensorboard(run_dir: Path) -> Tracker:
    from sweepft.trackers.tensorboard import EventFiles

    return EventFiles(run_dir)


def _wandb(track: Track, run_dir: Path) -> Tracker:
    os.environ.setdefault(
        "WANDB_ERROR_REPORTING", "false"
    )  # no error reports to W&B unless the user asks for them
    from sweepft.trackers.wandb import WandbRuns

    assert track.wandb is not None
    return WandbRuns(track.wandb, run_dir)


def _mlflow(track: Track, run_dir: Path) -> Tracker:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from sweepft.trackers.mlflow import MlflowRuns

    assert track.mlflow is not None
    return MlflowRuns(track.mlflow, run_dir)


def _trackio(track: Track, run_dir: Path) -> Tracker:
    os.environ.setdefault(
        "TRACKIO_DIR", str(inside(run_dir.resolve(), "trackio"))
    )  # read when it is imported
    from sweepft.trackers.trackio import TrackioRuns

    assert track.trackio is not None
    return TrackioRuns(track.trackio, run_dir)
