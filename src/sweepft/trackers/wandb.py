"""Weights & Biases: one run a trial, grouped by sweep; its history is by samples.

Ids of runs and numbers of history rows follow from the ledger, so that W&B recognises what is sent twice. Offline
there is no server to do so: a trial that continues is written again completely.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import wandb

from sweepft.files import inside
from sweepft.ledger import Row, SweepState, TrialState
from sweepft.spec import WandbTrack
from sweepft.trackers.trackers import Point, sweep_id

_SUCCESS: Final = ("completed", "stopped", "paused")


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

    def open(self, trial: TrialState, sweep: SweepState, before: Sequence[Point]) -> None:
        """Create the run of a trial, or continue it."""
        name = f"{sweep_id(sweep)}-{trial.trial_id}"
        if self._offline:
            for folder in inside(self._folder, "wandb").glob(f"offline-run-*-{name}"):
                shutil.rmtree(folder)
        run = wandb.init(
            id=name,
            name=trial.trial_id,
            group=sweep.name,
            job_type="trial",
            project=self._settings.project or os.environ.get("WANDB_PROJECT") or sweep.name,
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
        """Add history rows: step s is row 2s, the evaluation after it row 2s + 1."""
        run = self._runs[trial.trial_id]
        for point in points:
            values = {**point.values, "samples_seen": point.samples, "_timestamp": point.time}
            run.log(values, step=2 * point.step + point.validation)

    def decision(self, trial: TrialState, row: Row) -> None:
        """Nothing to do: `close` writes all decisions to the summary."""

    def close(self, trial: TrialState) -> None:
        """Write the summary and end the run; a paused trial continues it."""
        run = self._runs.pop(trial.trial_id)
        decisions = [d for d in trial.decisions if d["action"] != "continue"]
        run.summary.update(
            {
                "status": trial.status,
                "reason": trial.reason,
                "objective": trial.objective,
                "samples_seen": trial.samples_seen,
                "decisions": [
                    f"{d['samples_seen']} samples: {d['action']} by {d['rule']}: {d['reason']}"
                    for d in decisions
                ],
            }
        )
        run.tags = _tags(trial)
        run.finish(exit_code=0 if trial.status in _SUCCESS else 1)

    def flush(self) -> bool:
        """Not possible: W&B's service buffers the data, and dies with this process."""
        return False


def _tags(trial: TrialState) -> list[str]:
    """Status and decisions so far."""
    actions = [f"{d['action']}:{d['rule']}" for d in trial.decisions if d["action"] != "continue"]
    return list(dict.fromkeys([trial.status, *actions]))
