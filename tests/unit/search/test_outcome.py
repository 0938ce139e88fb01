"""How a trial ended, from its last result and its last decision."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweepft.search.ray_searcher import INTERRUPTED, PAUSED_SWEEP, Outcome, outcome_of

DONE = {"samples_seen": 9, "budget_samples": 9}


def decision(action: str) -> dict[str, Any]:
    return {"action": action, "reason": "why"}


@pytest.mark.parametrize(
    ("result", "last_decision", "outcome"),
    [
        ({**DONE, "objective": 2.0}, decision("continue"), Outcome("completed", 2.0)),
        ({**DONE, "objective": 2.0}, decision("audit"), Outcome("completed", 2.0)),
        ({**DONE, "objective": 2.0, "best_objective": 1.5}, None, Outcome("completed", 1.5)),
        ({"samples_seen": 3, "budget_samples": 9, "objective": 2.0, "best_objective": 1.5, "patience": "why"}, None,
         Outcome("completed", 1.5, reason="why")),
        ({"samples_seen": 3}, decision("stop"), Outcome("stopped", reason="why")),
        ({"samples_seen": 3}, decision("pause"), Outcome("paused", reason="why")),
        ({"samples_seen": 3}, decision("divergence_check"), Outcome("diverged", reason="why")),
        ({"samples_seen": 3, "diverged": "nan"}, decision("continue"), Outcome("diverged", reason="nan")),
        ({"failed": "a rank died", "samples_seen": 9}, None, Outcome("failed", reason="a rank died")),
        ({"failed": "disk full", "storage": "disk full"}, None, INTERRUPTED),
        ({"samples_seen": 3}, decision("continue"), INTERRUPTED),
        ({"samples_seen": 3, "paused": True}, decision("audit"), PAUSED_SWEEP),
        ({}, None, INTERRUPTED),
    ],
)  # fmt: skip
def test_outcome_of__result_and_decision(
    result: dict[str, Any], last_decision: dict[str, Any] | None, outcome: Outcome
) -> None:
    assert outcome_of(result, last_decision) == outcome


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_outcome_of__no_finite_objective_is_diverged(value: float | None) -> None:
    assert outcome_of({**DONE, "objective": value}, None).status == "diverged"
    assert outcome_of({**DONE, "objective": value, "best_objective": 2.0}, None).status == "diverged"
