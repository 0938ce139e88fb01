"""How a trial ended: the only place that decides it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Outcome:
    """How a trial left its slot.

    Attributes:
        status: ``completed | stopped | paused | diverged | failed | interrupted``, or ``lost``: its slot is gone, and
            it runs again on another one.
        objective: Validation loss at the full budget; None unless completed.
        reason: A sentence; None for a completed trial.
        delay: Seconds to wait before a lost trial is proposed again.
    """

    status: str
    objective: float | None = None
    reason: str | None = None
    delay: float = 0.0


INTERRUPTED: Final = Outcome("interrupted", reason="the sweep was interrupted")
"""The trial neither ended by itself nor was flagged: a resumed sweep continues it."""

PAUSED_SWEEP: Final = Outcome("interrupted", reason="the sweep was paused")


def outcome_of(result: Mapping[str, Any], decision: Mapping[str, Any] | None) -> Outcome:
    """How a trial ended, from its last result and the row of its last stopping decision (None without any)."""
    if result.get("failed"):
        if "storage" in result:  # the sweep ends with it; the trial itself has not failed
            return INTERRUPTED
        return Outcome("failed", reason=str(result["failed"]))
    if result.get("diverged"):
        return Outcome("diverged", reason=str(result["diverged"]))
    if result.get("samples_seen", 0) >= result.get("budget_samples", math.inf):
        value = result.get("eval_loss")
        if value is None or not math.isfinite(value):
            return Outcome("diverged", reason=f"the validation loss at the end is {value}")
        return Outcome("completed", float(value))
    if decision is not None and decision["action"] == "divergence_check":
        return Outcome("diverged", reason=decision["reason"])
    if decision is not None and decision["action"] == "stop":
        return Outcome("stopped", reason=decision["reason"])
    if decision is not None and decision["action"] == "pause":
        return Outcome("paused", reason=decision["reason"])
    return PAUSED_SWEEP if result.get("paused") else INTERRUPTED


def outcome_without_decisions(result: Mapping[str, Any], budget_samples: int, error: bool) -> Outcome:
    """The same where no driver has said it: in a Tuner with another scheduler, or of a trial that Tune itself ended."""
    if error:
        return Outcome("failed", reason="the trial raised an error")
    if result.get("diverged"):
        return Outcome("diverged", reason=str(result["diverged"]))
    value = result.get("eval_loss")
    if result.get("samples_seen", -math.inf) >= budget_samples and value is not None:
        return Outcome("completed", float(value))
    if not result:
        return Outcome("failed", reason="the trial ended without a result")
    if not result.get("done"):
        return INTERRUPTED
    return Outcome("stopped", reason="stopped by the scheduler")
