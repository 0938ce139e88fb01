"""Facts of the best trial, or of any other: train config, losses and data.

Everything comes from the ledger, so that ``best/`` can be written again wherever the run folder is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweepft.data import Prepared
from sweepft.data.order import Shares, phase_shares
from sweepft.ledger import VALIDATION_LOSS, Objective, SweepState, TrialState, winner, without_residuals
from sweepft.spec import MicroTokens, SweepSpec, TrainConfig, from_dict, is_hub_id


@dataclass(frozen=True)
class BestFacts:
    """A trial of a sweep: the best one, or another one by name.

    Attributes:
        trial: State of the trial from the ledger.
        train_config: What it trained with.
        spec: Spec of the sweep.
        prepared: Data of the sweep.
        objective: What the sweep optimised.
        stderr: Standard error of its objective over validation samples, or items of its task; None where several sets
            make the objective.
        items: Of the objective's task.
    """

    trial: TrialState
    train_config: TrainConfig
    spec: SweepSpec
    prepared: Prepared
    stderr: float | None
    objective: Objective = VALIDATION_LOSS
    items: int | None = None

    @property
    def validation(self) -> dict[str, dict[str, Any]]:
        """``{set: {loss, stderr, tokens, samples}}`` at the evaluation that gives its value."""
        counted = self.trial.counted
        return {} if counted is None else without_residuals(counted["sets"])

    @property
    def best_step(self) -> int | None:
        """The step before its end that its weights are from, where trials count by their best evaluation; else None."""
        counted = self.trial.counted if self.spec.objective.at == "best" else None
        if counted is None or counted.get("final") or self.trial.status != "completed":
            return None
        return int(counted["step"])

    @property
    def hub_model(self) -> str | None:
        """Hub id of the base model, also of a snapshot in the hub's cache; None for another folder."""
        path = self.spec.model.path
        if is_hub_id(path):
            return path
        cached = re.search(r"/models--([^/]+)--([^/]+)/snapshots/", path)
        return f"{cached[1]}/{cached[2]}" if cached else None

    @property
    def model_name(self) -> str:
        """The base model as others know it: its hub id, or the name of its folder."""
        return self.hub_model or Path(self.spec.model.path).name

    @property
    def data_names(self) -> list[str]:
        """Training sources: hub ids, and names of files without their folders."""
        paths = (source.path for source in self.spec.data.train)
        return [path if is_hub_id(path) else Path(path).name for path in paths]

    @property
    def phases(self) -> Shares | None:
        """Shares of the budget and of each domain in it; None where all rows weigh the same."""
        curriculum = self.train_config.data
        return None if curriculum is None else phase_shares(curriculum, self.prepared.train.domains)

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch: of packed rows as many of the longest as fit; 1 where it was found by a probe."""
        given = self.train_config.micro_batch
        if isinstance(given, MicroTokens):
            return max(1, given.tokens // self.prepared.train.longest)
        return given if isinstance(given, int) else 1


def best_facts(view: SweepState) -> BestFacts | None:
    """The best trial's facts, or None while no trial has completed."""
    best = winner(view)
    return None if best is None else facts_of(view, best)


def facts_of(view: SweepState, trial: TrialState) -> BestFacts:
    """Any trial's facts, completed or not."""
    spec = from_dict(view.spec, recorded=True)
    sets = {} if trial.counted is None else trial.counted["sets"]
    decides = [h.name for h in spec.data.validation if h.weight > 0]
    stderr = sets.get(decides[0], {}).get("stderr") if len(decides) == 1 else None
    task = (trial.counted or {}).get("task") or {}
    if view.objective.task is not None:
        stderr = task.get("stderr")
    return BestFacts(
        trial=trial,
        train_config=TrainConfig.from_dict(trial.train_config, view.budget_samples),
        spec=spec,
        prepared=Prepared.model_validate(view.header["data"]),
        stderr=stderr,
        objective=view.objective,
        items=task.get("items"),
    )
