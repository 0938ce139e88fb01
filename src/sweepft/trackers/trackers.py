"""What a tracker can do, and which there are."""

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
    """One tool. Whatever a method raises ends the copying to this tool, and nothing else."""

    def open(self, trial: TrialState, view: SweepState, before: Sequence[Point]) -> None:
        """A trial begins to report, or goes on after a pause.

        Args:
            trial: It.
            view: The sweep; ``view.header`` and ``view.spec`` are known.
            before: Points of it that were sent earlier.
        """

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        """Take points of an open trial, each once and in the order of its steps."""

    def decision(self, trial: TrialState, row: Row) -> None:
        """Take a verdict on an open trial that is more than to let it go on."""

    def close(self, trial: TrialState) -> None:
        """An open trial has ended or pauses: ``trial.status``, ``reason`` and ``objective`` say how."""

    def flush(self) -> bool:
        """See to it that what was taken is not lost with this process.

        Returns:
            True if so; False if that holds for closed trials only: open ones are then sent again, whole, to whoever
            comes after a crash of this process.
        """
        ...


def make_trackers(track: Track, run_dir: Path) -> dict[str, Callable[[], Tracker]]:
    """How to make each tracker that a spec asks for; heavy libraries are imported when one is made."""
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
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no word to its makers, unless the user wants it
    from sweepft.trackers.wandb import WandbRuns

    assert track.wandb is not None
    return WandbRuns(track.wandb, run_dir)


def _mlflow(track: Track, run_dir: Path) -> Tracker:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from sweepft.trackers.mlflow import MlflowRuns

    assert track.mlflow is not None
    return MlflowRuns(track.mlflow, run_dir)
