"""A search space, an objective made for it, and the ledger rows a driver would write."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from support import specs
from sweepft.ledger.rows import EndRow, EvalRow, StartRow, SweepRow, TrialRow
from sweepft.search import Proposal
from sweepft.spec import SweepSpec

BUDGET = 1000
RUNGS = (0.1, 0.25, 0.5)

SPACE = {
    "batch_size": {"choice": [32, 8, 16]},
    "learning_rate": {"log_uniform": [1e-4, 1e-2]},
    "warmup": {"choice": [0.0, 0.03, 0.1]},
    "schedule": {"choice": ["constant", "cosine", "linear"]},
}
FINITE = {**SPACE, "learning_rate": {"choice": [1e-4, 1e-3, 1e-2]}}


def make_spec(space: dict[str, Any] = SPACE, *, concurrent: int = 1, **search: Any) -> SweepSpec:
    """A spec with a search section to try; no file it names is looked at."""
    search = {"trials": 16, **search}
    if search.get("sampler") == "grid" and space is SPACE:
        space = FINITE
    return specs.spec(
        train={"budget": {"samples": BUDGET}, "micro_batch": 8},
        search=search | {"space": space},
        resources={"concurrent_trials": concurrent},
    )


def loss(params: dict[str, Any], rung: float = 1.0) -> float:
    """A made objective with one best place: batch 16, rate 1e-3, little warmup, cosine."""
    value = (math.log10(params.get("learning_rate", 1e-3)) + 3) ** 2
    value += (math.log2(params.get("batch_size", 16)) - 4) ** 2 / 4
    value += 3 * params.get("warmup", 0.0) + 0.2 * (params.get("schedule") != "cosine")
    return value + 1.0 / rung


class Ledger:
    """The rows a driver would write, in the recorder's own kinds, through JSON as on disk."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.write("sweep", SweepRow("proposing", {}, "digest", 0, BUDGET, "0"))

    def write(self, kind: str, row: Any) -> None:
        self.rows.append(json.loads(json.dumps({"kind": kind, **asdict(row)})))

    def propose(self, p: Proposal) -> None:
        row = TrialRow(p.trial_id, p.number, p.params, {}, p.origin, 1, 0, p.study_number)
        if not p.resumed:
            self.write("trial", row)
        self.write("start", StartRow(p.trial_id, 1 + p.resumed, 0))

    def evaluate(self, trial_id: str, rung: float, objective: float | None, *, final: bool = False) -> None:
        self.write("eval", EvalRow(trial_id, 1, 1, 1, None if final else rung, final, objective, {}))

    def end(self, trial_id: str, status: str, objective: float | None, reason: str | None) -> None:
        self.write("end", EndRow(trial_id, 1, status, reason, objective, 1, 1, 1))
