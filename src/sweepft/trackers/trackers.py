"""The interface of a tracker, and the trackers there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import Track
from sweepft.trackers.points import Point


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
