"""Trials of the sweep as the Optuna study holds them: states, values and constraints of how they ended.

A completed trial is COMPLETE; a stopped one is PRUNED with all its validation losses; a diverged one is PRUNED, or FAIL
without any validation loss; a failed one is FAIL. A trial that has not ended is RUNNING.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState, create_trial

from sweepft.ledger import TrialState as SweepTrial
from sweepft.ledger import excesses
from sweepft.search.space import Space
from sweepft.search.study import nominal_step

_MOST_OVER: Final = 100.0
"""Largest excess of a loss that a sampler is given, in nats: it stands for a loss that is not finite."""


def frozen_trial(record: SweepTrial, space: Space, limits: Mapping[str, float] | None) -> FrozenTrial:
    """A trial of the ledger: ended, or RUNNING while it is open.

    Args:
        record: Of the ledger.
        space: Of the sweep; a trial outside of it is FAIL, so it counts but is not learned from.
        limits: Largest loss allowed by bounded validation set; None while they are unknown, and trials stay open.
    """
    ended = record.end is not None and record.status != "interrupted" and limits is not None
    named = attrs_of(record.trial_id, record.params, record.origin)
    try:
        optuna_params = space.encode(record.params, record.coordinates)
    except ValueError as error:  # proposed under a wider space
        attrs = {**named, "status": record.status if ended else None, "reason": str(error)}
        return create_trial(state=TrialState.FAIL, user_attrs=attrs)
    values = values_of(record)
    state, value, attrs = TrialState.RUNNING, None, {}
    if ended:
        state, value, attrs = ending_of(record.status, finite(record.objective), record.reason, bool(values))
    if state == TrialState.PRUNED and values:
        value = values[max(values)]  # as Optuna's tell does
    return create_trial(
        state=state,
        value=value,
        params=optuna_params,
        distributions=space.distributions,
        intermediate_values=values,
        user_attrs={**named, **attrs},
        constraints=constraints_of(state, record.losses, limits or {}),
    )


def constraints_of(
    state: TrialState, losses: Mapping[str, float | None], limits: Mapping[str, float]
) -> dict[str, float]:
    """Optuna's constraints of an ended trial, 0 or less where a bound is met."""
    if state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return {}
    if state == TrialState.PRUNED and not limits.keys() <= losses.keys():
        return {}  # stopped before all that is bounded was measured
    return {name: min(over, _MOST_OVER) for name, over in excesses(losses, limits).items()}


def finite(value: float | None) -> float | None:
    """The value, or None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def values_of(record: SweepTrial) -> dict[int, float]:
    """The trial's value by `nominal_step`."""
    values: dict[int, float] = {}
    for row in record.evals:
        rung, value = 1.0 if row["final"] else row["rung"], record.value_at(row)["objective"]
        if rung is not None and value is not None and math.isfinite(value):
            values.setdefault(nominal_step(rung, record.budget_samples), float(value))
    return values


def attrs_of(trial_id: str, params: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """User attributes by which the study knows a trial."""
    return {"trial_id": trial_id, "params": params, "origin": origin}


def ending_of(
    status: str, value: float | None, reason: str | None, has_values: bool
) -> tuple[TrialState, float | None, dict[str, Any]]:
    """State, value and user attributes of an ended trial in the study."""
    attrs = {"status": status} if reason is None else {"status": status, "reason": reason}
    if status == "completed":
        if value is not None and math.isfinite(value):
            return TrialState.COMPLETE, float(value), attrs
        status = "diverged"
        attrs = {"status": status, "reason": reason or f"the objective is {value}"}
    match status:
        case "stopped":
            return TrialState.PRUNED, None, attrs
        case "diverged":
            return TrialState.PRUNED if has_values else TrialState.FAIL, None, attrs
        case "failed" | "interrupted":
            return TrialState.FAIL, None, attrs
    raise ValueError(f"status {status!r} is none of completed, stopped, diverged, failed, interrupted")
