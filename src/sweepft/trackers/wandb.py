"""Weights & Biases: a run for every trial, grouped by sweep; its history is against samples.

One idea: a run's id and the number of each of its history rows follow from the ledger, so that what is sent twice
is known as such. Offline, where nobody can know, a trial that goes on is written anew, whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import wandb

from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import WandbTrack
from sweepft.trackers.points import Point, sweep_id

_WELL: Final = ("completed", "stopped", "paused")


class WandbRuns:
    """Runs at a W&B server, or in the run folder's ``wandb/``.

    Args:
        settings: Project, entity, mode.
        run_dir: The run folder.
    """

    def __init__(self, settings: WandbTrack, run_dir: Path) -> None:
        self._settings = settings
        self._folder = run_dir
        self._offline = (settings.mode or os.environ.get("WANDB_MODE", "online")) == "offline"
        self._runs: dict[str, Any] = {}

    def open(self, trial: TrialState, view: SweepState, before: Sequence[Point]) -> None:
        """Begin the run of a trial, or go on with it."""
        name = f"{sweep_id(view)}-{trial.trial_id}"
        if self._offline:
            for folder in (self._folder / "wandb").glob(f"offline-run-*-{name}"):
                shutil.rmtree(folder)
        run = wandb.init(
            id=name,
            name=trial.trial_id,
            group=view.name,
            job_type="trial",
            project=self._settings.project or os.environ.get("WANDB_PROJECT") or view.name,
            entity=self._settings.entity,
            mode="offline" if self._offline else self._settings.mode,
            resume=None if self._offline else "allow",
            reinit="create_new",
            dir=str(self._folder),
            config={
                "trial_id": trial.trial_id,
                "number": trial.number,
                "origin": trial.origin,
                **trial.train_config,
            },
            tags=_tags(trial),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                save_code=False,
                x_disable_stats=True,  # of this process, not of the trial's
                x_disable_meta=True,
                x_disable_machine_info=True,
            ),
        )
        run.define_metric("samples_seen", hidden=True)
        run.define_metric("*", step_metric="samples_seen")
        self._runs[trial.trial_id] = run
        if self._offline:
            self.send(trial, before)

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        """Add history rows: step s is row 2s, the evaluation behind it row 2s + 1."""
        run = self._runs[trial.trial_id]
        for point in points:
            values = {**point.values, "samples_seen": point.samples, "_timestamp": point.time}
            run.log(values, step=2 * point.step + point.validation)

    def decision(self, trial: TrialState, row: Row) -> None:
        """Nothing yet: a run's summary holds all verdicts when it is closed."""

    def close(self, trial: TrialState) -> None:
        """Write the summary and let the run end, for now or for good."""
        run = self._runs.pop(trial.trial_id)
        told = [v for v in trial.decisions if v["action"] != "continue"]
        run.summary.update(
            {
                "status": trial.status,
                "reason": trial.reason,
                "objective": trial.objective,
                "samples_seen": trial.samples_seen,
                "decisions": [
                    f"{v['samples_seen']} samples: {v['action']} by {v['rule']}: {v['reason']}" for v in told
                ],
            }
        )
        run.tags = _tags(trial)
        run.finish(exit_code=0 if trial.status in _WELL else 1)

    def flush(self) -> bool:
        """Cannot be done: W&B's own service holds back what it is told, and is lost with us."""
        return False


def _tags(trial: TrialState) -> list[str]:
    """Status and verdicts, as far as they are known."""
    actions = [f"{v['action']}:{v['rule']}" for v in trial.decisions if v["action"] != "continue"]
    return list(dict.fromkeys([trial.status, *actions]))
