"""Early stopping in a search with bounds on validation losses and tasks: which trials cannot meet them any more, and
which trials a rule must not compare with others that will not meet them.

Both act on the last measured losses only. What a model has forgotten comes back in part while its learning rate decays,
so that a trial a little above a bound at a rung can meet it at the end. Over the 120 runs of our study, at rungs of
12.5%, 25% and 50% and for bounds of 0.1 to 2 nats above the base model, no run that was more than three times the
allowance above the base ended within the bound (of those more than once the allowance above it, a few did).

The value of a task counts as a cost, turned where more is better. It is noisy: a trial is stopped for one only where
twice its standard error is left out. And it may improve in training: where the base model does not meet the bound, a
bad value early on says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.trial import TrialRecord
from sweepft.ledger import violation

SURE: Final = 3.0
"""Times the allowance by which a loss is above the base when its trial is stopped."""


class BoundCheck:
    """The bounds of one sweep; without limits it decides nothing.

    Attributes:
        limits: Largest cost allowed by validation set or task.
        base: The base model's costs, where known; else the lowest loss that any trial has had stands for it.
        noise: Standard error of a cost above the base, by task.
    """

    def __init__(self) -> None:
        self.limits: dict[str, float] = {}
        self.base: dict[str, float] = {}
        self.noise: dict[str, float] = {}
        self._lowest: dict[str, float] = {}

    def take(self, record: TrialRecord, losses: Mapping[str, float]) -> None:
        """A trial was evaluated. What was not measured this time keeps its last value."""
        record.losses = {**record.losses, **losses}
        for name, loss in losses.items():
            if math.isfinite(loss):
                self._lowest[name] = min(loss, self._lowest.get(name, loss))

    def out_of_reach(self, record: TrialRecord, cohort: Cohort) -> tuple[str, dict[str, Any]] | None:
        """Why a trial cannot meet a bound any more, with the numbers; None where it may.

        Nothing is out of reach before some trial has met all bounds at its end: until then, trials that do not meet
        them are ranked by how near they come.
        """
        if not self._met_at_the_end(cohort):
            return None
        for name, limit in self.limits.items():
            loss = record.losses.get(name, math.nan)
            base = self.base.get(name, self._lowest.get(name, math.nan))
            allowed, noise = limit - base, self.noise.get(name)
            sure = SURE * allowed + 2 * (noise or 0.0)
            if allowed > 0 and math.isfinite(loss) and loss - base > sure:
                return self._reason(name, loss, base, limit), {
                    "set": name,
                    "loss": loss,
                    "base": base,
                    "limit": limit,
                }
        return None

    def _reason(self, name: str, loss: float, base: float, limit: float) -> str:
        if name in self.noise:
            return (
                f"{name} is {loss - base:.4g} worse than the base model's, by more than {SURE:g} times the allowed "
                f"{limit - base:.4g} and twice the noise: its bound is out of reach"
            )
        return (
            f"loss {loss:.4g} on {name} is {loss - base:.4g} above the base, {SURE:g} times the allowed "
            f"{limit - base:.4g} or more: the bound of {limit:.4g} is out of reach"
        )

    def spares(self, record: TrialRecord, rung: Rung, cohort: Cohort) -> str | None:
        """Why a rule must not stop this trial: it meets the bounds, and is among the better half of those that do.

        Other trials may have a better objective only because they do not meet the bounds.
        """
        known = {name: limit for name, limit in self.limits.items() if name in record.losses}
        if not known or violation(record.losses, known) > 0:
            return None
        if not self._met_at_the_end(cohort):
            return "it meets the bounds, and no trial has met them at its end yet"
        own = cohort.sign * record.snapshots[rung].metric
        others = [
            cohort.sign * snapshot.metric
            for name, snapshot in cohort.at(rung).items()
            if name != record.trial_id and violation(cohort.trials[name].losses, self.limits) == 0
        ]
        better = sum(value > own for value in others)
        if 2 * better > len(others):
            return None
        return f"it meets the bounds, and so far {better} of {len(others)} others that do are better"

    def _met_at_the_end(self, cohort: Cohort) -> bool:
        return bool(self.limits) and any(
            violation(trial.losses, self.limits) == 0 for trial in cohort.completed()
        )

    def to_state(self) -> dict[str, Any]:
        """JSON-able state."""
        return {"limits": self.limits, "base": self.base, "noise": self.noise, "lowest": self._lowest}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; an empty one knows no bounds."""
        self.limits, self.base = dict(state.get("limits", {})), dict(state.get("base", {}))
        self.noise, self._lowest = dict(state.get("noise", {})), dict(state.get("lowest", {}))
