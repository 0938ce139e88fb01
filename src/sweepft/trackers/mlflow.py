"""MLflow: one run a trial, in one experiment; the step of a metric is the number of samples.

A run is found by a tag with sweep and trial, and a metric that is sent twice is the same row of MLflow's database, so
that sending again is harmless.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import MlflowTrack, flat
from sweepft.trackers.trackers import Point, sweep_id

_TAG: Final = "sweepft.trial"
_STATUS: Final = {
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "paused": "SCHEDULED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
# Limits of a request.
_METRICS: Final = 1000
_PARAMS: Final = 100
_TEXT: Final = 500


class MlflowRuns:
    """Runs at an MLflow server, or in the run folder's ``mlflow.db``.

    Args:
        settings: Address and experiment.
        run_dir: The run folder.
    """

    def __init__(self, settings: MlflowTrack, run_dir: Path) -> None:
        self._settings = settings
        self._folder = run_dir.resolve()
        own = f"sqlite:///{self._folder / 'mlflow.db'}"
        uri = settings.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        self._artifacts = (self._folder / "mlartifacts").as_uri() if uri == own else None
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}

    def open(self, trial: TrialState, sweep: SweepState, before: Sequence[Point]) -> None:
        """Create the run of a trial, or continue it."""
        experiment = self._experiment_of(sweep)
        known = self._client.search_runs(
            [experiment], f"tags.`{_TAG}` = '{_name(trial, sweep)}'", max_results=1
        )
        if known:
            run = known[0].info.run_id
            self._client.update_run(run, status="RUNNING")
        else:
            tags = {_TAG: _name(trial, sweep), "sweepft.sweep": sweep.name, "sweepft.origin": trial.origin}
            begin = int(trial.proposed * 1000)
            run = self._client.create_run(experiment, begin, tags, trial.trial_id).info.run_id
        self._runs[trial.trial_id] = run
        config = flat(trial.train_config, without=(None, {}))
        params = [Param(key, str(value)[:_TEXT]) for key, value in config.items()]
        for i in range(0, len(params), _PARAMS):
            self._client.log_batch(run, params=params[i : i + _PARAMS])

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        """Log metrics."""
        metrics = [
            Metric(tag, value, int(point.time * 1000), point.samples)
            for point in points
            for tag, value in point.values.items()
        ]
        for i in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._runs[trial.trial_id], metrics=metrics[i : i + _METRICS])

    def decision(self, trial: TrialState, row: Row) -> None:
        """Set a tag."""
        text = f"{row['action']} by {row['rule']}: {row['reason']}"
        self._client.set_tag(
            self._runs[trial.trial_id], f"sweepft.decision.{int(row['samples_seen'])}", text[:_TEXT]
        )

    def close(self, trial: TrialState) -> None:
        """Set status and reason, and end the run; a paused trial continues it."""
        run = self._runs.pop(trial.trial_id)
        ended = int((trial.ended or trial.attempts[-1].last if trial.attempts else trial.proposed) * 1000)
        tags = [
            RunTag("sweepft.status", trial.status),
            RunTag("sweepft.reason", (trial.reason or "")[:_TEXT]),
        ]
        metrics = []
        if trial.objective is not None:
            metrics = [Metric("objective", trial.objective, ended, trial.samples_seen)]
        self._client.log_batch(run, metrics=metrics, tags=tags)
        status = _STATUS.get(trial.status, "KILLED")
        if status == "SCHEDULED":
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, ended)

    def flush(self) -> bool:
        """Nothing to do: a call that has returned is stored."""
        return True

    def _experiment_of(self, sweep: SweepState) -> str:
        if self._experiment is None:
            name = self._settings.experiment or sweep.name
            known = self._client.get_experiment_by_name(name)
            self._experiment = (
                known.experiment_id
                if known is not None
                else self._client.create_experiment(name, self._artifacts)
            )
        return self._experiment


def _name(trial: TrialState, sweep: SweepState) -> str:
    return f"{sweep_id(sweep)}/{trial.trial_id}"
