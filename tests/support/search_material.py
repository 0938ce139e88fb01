"""A search space, an objective for it, and the ledger rows that a driver writes."""

from __future__ import annotations

import math
from typing import Any

from support import specs
from support.ledger_builder import LedgerBuilder
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


def new_ledger() -> LedgerBuilder:
    """The ledger of a sweep of `BUDGET` samples, to which `propose` and `evaluate` add rows as a driver does."""
    return LedgerBuilder(name="proposing", budget_samples=BUDGET)


def propose(ledger: LedgerBuilder, p: Proposal) -> None:
    """The rows of a proposal that starts."""
    if not p.resumed:
        ledger.trial(
            p.trial_id,
            start=False,
            number=p.number,
            params=p.params,
            origin=p.origin,
            study_number=p.study_number,
        )
    ledger.start(p.trial_id)


def evaluate(ledger: LedgerBuilder, trial_id: str, rung: float, objective: float | None) -> None:
    """The rows of a result at a rung."""
    ledger.steps(trial_id, round(rung * BUDGET / 10)).eval(trial_id, objective, rung=rung)
