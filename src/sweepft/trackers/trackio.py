"""Trackio: one run a trial, grouped by sweep; the step of a metric is the number of samples.

Trackio has one current run in each context, so a trial's run lives in a context of its own. Without a Space or server
its database is in the run folder, and a trial that continues is written again completely: nothing there recognises what
is sent twice.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trackio

from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import TrackioTrack, flat
from sweepft.trackers.trackers import Point, sweep_id

_SUCCESS: Final = ("completed", "stopped", "paused")


class TrackioRuns:
    """Runs in the run folder's ``trackio/``, in a Space, or at a server of one's own (``TRACKIO_SERVER_URL``).

    Args:
        settings: Project, Space.
        run_dir: The run folder.
    """

    def __init__(self, settings: TrackioTrack, run_dir: Path) -> None:
        self._settings = settings
        space = settings.space or os.environ.get("TRACKIO_SPACE_ID")
        self._local = not (space or os.environ.get("TRACKIO_SERVER_URL"))
        self._runs: dict[str, Any] = {}

    def open(self, trial: TrialState, sweep: SweepState, before: Sequence[Point]) -> None:
        """Create the run of a trial, or continue it."""
        project = self._settings.project or sweep.name
        name = f"{trial.trial_id}-{sweep_id(sweep)}"
        if self._local:
            self._delete(project, name)
        config = {
            "trial_id": trial.trial_id,
            "number": trial.number,
            "origin": trial.origin,
            **flat(trial.train_config, without=(None, {})),
        }
        with _quiet():
            self._runs[trial.trial_id] = contextvars.Context().run(
                trackio.init,
                project=project,
                name=name,
                group=sweep.name,
                space_id=self._settings.space,
                private=True,
                config=config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,  # of this process, not of the trial's
                auto_log_cpu=False,
            )
        if self._local:
            self.send(trial, before)

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        """Log metrics."""
        run = self._runs[trial.trial_id]
        for point in points:
            run.log(dict(point.values), step=point.samples)

    def decision(self, trial: TrialState, row: Row) -> None:
        """Add an alert, which Trackio shows beside the curves."""
        text = f"{row['action']} by {row['rule']}: {row['reason']}"
        self._alert(trial, row["action"], text, trackio.AlertLevel.INFO, int(row["samples_seen"]))

    def close(self, trial: TrialState) -> None:
        """Log the final objective and the status, and end the run; a paused trial continues it."""
        run = self._runs[trial.trial_id]
        if trial.objective is not None:
            run.log({"objective": trial.objective}, step=trial.samples_seen)
        level = trackio.AlertLevel.INFO if trial.status in _SUCCESS else trackio.AlertLevel.ERROR
        self._alert(trial, trial.status, trial.reason or "", level, trial.samples_seen)
        with _quiet():
            run.finish()
        del self._runs[trial.trial_id]

    def flush(self) -> bool:
        """Not possible: a thread of each run writes what it holds, twice a second."""
        return False

    def _alert(self, trial: TrialState, title: str, text: str, level: Any, step: int) -> None:
        with _quiet():
            self._runs[trial.trial_id].alert(title, text, level=level, step=step)

    @staticmethod
    def _delete(project: str, name: str) -> None:
        """Remove what an earlier process wrote of a run."""
        with contextlib.suppress(ValueError):  # there is no such project yet
            for run in list(trackio.Api().runs(project)):
                if run.name == name:
                    run.delete()


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Trackio prints to standard output, which may be a command's JSON."""
    return contextlib.redirect_stdout(sys.stderr)
