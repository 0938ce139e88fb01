"""How a trial ended, decided in one place from its last result and its last verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["INTERRUPTED", "Outcome", "outcome"]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: ``completed | stopped | parked | diverged | failed | interrupted``.
        objective: Value at full budget, None unless completed.
        reason: A sentence, None for a completed trial.
    """

    status: str
    objective: float | None
    reason: str | None


INTERRUPTED = Outcome("interrupted", None, "the sweep was interrupted")
"""The trial did not end by itself, and nobody condemned it: it goes on when the sweep is resumed."""


def outcome(result: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> Outcome:
    """Decide how a trial ended.

    Args:
        result: Its last result, as reported to Tune.
        verdict: The row of its last verdict, None when it was never judged.
    """
    if result.get("failed") and "storage" in result:  # it failed with the sweep, not by itself
        return INTERRUPTED
    if result.get("failed"):
        return Outcome("failed", None, str(result["failed"]))
    if result.get("diverged"):
        return Outcome("diverged", None, str(result["diverged"]))
    if result.get("samples_seen", 0) >= result.get("budget_samples", math.inf):
        value = result.get("eval_loss")
        if value is None or not math.isfinite(value):
            return Outcome("diverged", None, f"the held-out loss at the end is {value}")
        return Outcome("completed", float(value), None)
    if verdict is not None and verdict["action"] == "guard":
        return Outcome("diverged", None, verdict["reason"])
    if verdict is not None and verdict["action"] == "stop":
        return Outcome("stopped", None, verdict["reason"])
    if verdict is not None and verdict["action"] == "park":
        return Outcome("parked", None, verdict["reason"])
    return INTERRUPTED
