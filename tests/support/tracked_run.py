"""The ledger of a run that something follows: trackers, a mirror."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import Row

TRAIN_CONFIG = {
    "batch_size": 8,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "optimizer": {"eps": 1e-8},
    "lora": None,
}


class TrackedRun(LedgerBuilder):
    """A ledger on disk whose rows are about trial ``t000`` unless another one is named, two steps a result."""

    def __init__(self, run_dir: Path, track: dict[str, Any] | None = None) -> None:
        spec = {"name": "my-sweep", "track": track or {}}
        super().__init__(
            run_dir, samples_per_step=8, tokens_per_step=80, clock=time.time, name="my-sweep", spec=spec,
            budget_samples=96,
        )  # fmt: skip
        self.run_dir = run_dir

    def trial(self, trial_id: str = "t000", **fields: Any) -> TrackedRun:
        return super().trial(trial_id, **{"train_config": TRAIN_CONFIG, **fields})

    def result(
        self, trial_id: str = "t000", *, objective: float | None = None, loss: float | None = None
    ) -> Row:
        """The `steps` row of two more steps, and an `eval` row where ``objective`` is given."""
        first = self.last_step[trial_id] + 1
        losses = [3.0 / s if loss is None else loss for s in (first, first + 1)]
        self.steps(
            trial_id, first + 1, loss=losses, grad_norm=[1.0, math.inf], seconds=[0.25, 0.5],
            phase_seconds={"train": 1.0},
        )  # fmt: skip
        row = self.row
        if objective is not None:
            sets = {"own": {"loss": objective}, "general": {"loss": 4.0}}
            self.eval(trial_id, objective, rung=0.25, final=False, sets=sets)
        return row

    def decision(self, action: str, trial_id: str = "t000", reason: str = "p_top 0.01 < 0.05") -> TrackedRun:
        return super().decision(trial_id, action, rule="calibrated", reason=reason, rung=0.25)

    def end(
        self, trial_id: str = "t000", status: str = "completed", objective: float | None = None
    ) -> TrackedRun:
        return super().end(trial_id, status, objective)

    def finish(self) -> TrackedRun:
        return super().finish().close()

    def two_trials(self) -> None:
        """``t000`` is audited and completes; ``t001`` has a loss that is no number, and is paused."""
        self.trial()
        self.trial("t001")
        self.result("t000", objective=2.25)
        self.decision("audit", "t000")
        self.result("t001", loss=float("nan"))
        self.decision("pause", "t001")
        self.result("t000", objective=2.0)
        self.end("t000", objective=2.0)
