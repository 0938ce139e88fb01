"""A run's ledger in the writing, for what follows it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sweepft.ledger import Ledger, Row

EFFECTIVE = {
    "batch_size": 8,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "optimizer": {"eps": 1e-8},
    "lora": None,
}


class TrackedRun:
    """Writes rows as a sweep would: a result of two steps, with an evaluation where ``objective`` is given."""

    def __init__(self, run_dir: Path, track: dict[str, Any] | None = None) -> None:
        self.run_dir = run_dir
        self.ledger = Ledger.create(run_dir)
        self.steps: dict[str, int] = {}
        self.sweep(track or {})

    def sweep(self, track: dict[str, Any], resumed: bool = False) -> None:
        self.ledger.append(
            "sweep", name="my-sweep", spec={"name": "my-sweep", "track": track}, spec_digest="d", seed=0,
            budget_samples=96, sweepft_version="0", resumed=resumed,
        )  # fmt: skip

    def trial(self, name: str = "t000") -> None:
        self.ledger.append(
            "trial", trial_id=name, number=int(name[1:]), params={"learning_rate": 1e-3}, train_config=EFFECTIVE,
            origin="sampler", planned_steps=12, warmup_steps=0,
        )  # fmt: skip
        self.start(name)

    def start(self, name: str = "t000", attempt: int = 1) -> None:
        begun = self.steps.get(name, 0)
        self.ledger.append("start", trial_id=name, attempt=attempt, slot="s0", from_step=begun)

    def result(self, name: str = "t000", *, objective: float | None = None, loss: float | None = None) -> Row:
        first = self.steps.get(name, 0) + 1
        steps = [first, first + 1]
        self.steps[name] = steps[-1]
        row = self.ledger.append(
            "steps", trial_id=name, attempt=1, phase_seconds={"train": 1.0},
            history={
                "step": steps, "samples_seen": [8 * s for s in steps], "tokens_seen": [80 * s for s in steps],
                "loss": [3.0 / s if loss is None else loss for s in steps], "grad_norm": [1.0, math.inf],
                "lr": [1e-3, 1e-3], "seconds": [0.25, 0.5],
            },
        )  # fmt: skip
        if objective is not None:
            self.ledger.append(
                "eval", trial_id=name, attempt=1, step=steps[-1], samples_seen=8 * steps[-1], rung=0.25,
                final=False, objective=objective, sets={"own": {"loss": objective}, "general": {"loss": 4.0}},
            )  # fmt: skip
        return row

    def decision(self, action: str, name: str = "t000", reason: str = "p_top 0.01 < 0.05") -> None:
        step = self.steps.get(name, 0)
        self.ledger.append(
            "decision", trial_id=name, step=step, samples_seen=8 * step, rung=0.25, action=action,
            rule="calibrated", reason=reason,
        )  # fmt: skip

    def end(self, name: str = "t000", status: str = "completed", objective: float | None = None) -> None:
        step = self.steps.get(name, 0)
        self.ledger.append(
            "end", trial_id=name, attempt=1, status=status, reason=None, objective=objective, step=step,
            samples_seen=8 * step, tokens_seen=80 * step,
        )  # fmt: skip

    def finish(self) -> None:
        self.ledger.append("finish", status="finished")
        self.ledger.close()
