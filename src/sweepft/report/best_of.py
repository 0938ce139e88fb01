"""Trials that count by their best evaluation (``objective.at: best``): which one it is, what the trial had at its end,
and what a shorter trial would have given.

An evaluation before the end is that of a shorter trial only where the learning rate does not depend on the end
(``constant``, ``inverse_sqrt``). Under a decaying schedule the rate has not come down yet, so that a trial of that
length, with its own decay, is likely to end better. The best of several evaluations on the same samples is too good on
average by some of their noise; it is stated as the best of so many, with the value at the end beside it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from sweepft.ledger import Row, SweepState, TrialState, costs_of, violation
from sweepft.report.format import number

_UNTIMED: Final = ("constant", "inverse_sqrt")
"""Schedules whose rate at a step does not depend on the trial's length."""


LENGTH_INTRO: Final = (
    "The best result at each point where trials were evaluated, of all trials that came so far. It is what a sweep of "
    "that length would have found only at an honest end, where the learning rate does not depend on the length; under "
    "a decaying schedule a trial of that length would end better."
)


def counts_by_best(sweep: SweepState) -> bool:
    """Whether trials count by their best evaluation."""
    return bool((sweep.spec.get("objective") or {}).get("at") == "best")


def best_evaluation(sweep: SweepState, trial: TrialState) -> dict[str, Any] | None:
    """The best evaluation of a completed trial; None where trials count by their end.

    Returns:
        ``step``, ``samples_seen``, ``epochs`` (None where the rows are not known), ``evaluations`` (of which it is the
        best), ``is_end`` (whether it is at the full budget), ``end`` (the objective there, None for a trial that was
        ended before), ``undecayed`` (whether the schedule would have lowered the rate in a trial of that length) and
        ``text``.
    """
    row = trial.counted
    if not counts_by_best(sweep) or trial.status != "completed" or row is None:
        return None
    rows, final = sweep.training_rows, next((e for e in trial.evals if e.get("final")), None)
    found = {
        "step": row["step"],
        "samples_seen": row["samples_seen"],
        "epochs": row["samples_seen"] / rows if rows else None,
        "evaluations": sum(_could_count(sweep, e) for e in trial.evals),
        "is_end": bool(row.get("final")),
        "end": None if final is None else final["objective"],
        "undecayed": _undecayed(trial, row),
    }
    over = _violation(sweep, row) or 0.0
    beyond = ""
    if final is not None and (_violation(sweep, final) or 0.0) > over:
        beyond = ", further beyond the bounds" if over else ", beyond the bounds"
    return found | {"text": _text(trial, found, beyond)}


def _could_count(sweep: SweepState, row: Row) -> bool:
    """Whether everything that an evaluation is chosen by was measured."""
    bounded = {bound.name for bound in sweep.bounds.entries}
    return row["objective"] is not None and {*row["sets"], *(row.get("tasks") or ())} >= bounded


def _violation(sweep: SweepState, row: Row) -> float | None:
    """How far an evaluation is beyond the bounds; None without any."""
    limits = sweep.bounds.limits
    return violation(costs_of(row["sets"], row.get("tasks") or {}), limits) if limits else None


def _undecayed(trial: TrialState, row: Row) -> bool:
    config = trial.train_config
    decays = config.get("schedule", "constant") not in _UNTIMED and config.get("min_lr_ratio") != 1
    return decays and not row.get("final")


def _text(trial: TrialState, best: dict[str, Any], beyond: str) -> str:
    where = f"step {best['step']} of {trial.planned_steps}"
    if best["epochs"] is not None:
        where += f", {number(best['epochs'], 3)} epochs"
    text = f"the best of {best['evaluations']} evaluations, at {where}"
    if best["is_end"]:
        return f"{text}, its end"
    after = "it was ended before the full budget"
    if best["end"] is not None:
        after = f"at its end it had {number(best['end'])}{beyond}"
    text += f"; {after}"
    if best["undecayed"]:
        schedule = trial.train_config.get("schedule")
        text += f"; the {schedule} schedule had not decayed there, so a trial of that length would end better"
    return text


def losses_by_length(sweep: SweepState) -> list[dict[str, Any]]:
    """The best result at each point where trials were evaluated; empty where trials count by their end.

    Returns:
        Rows ``fraction`` (of the budget), ``epochs``, ``trials`` (evaluated there), ``trial_id`` (the best one),
        ``objective``, ``violation`` (how far it is beyond the bounds there; None without any), ``honest_end``: whether
        its value there is that of a trial of this length. As in the ranking, those that meet the bounds come first.
    """
    if not counts_by_best(sweep):
        return []
    rows, at = sweep.training_rows, dict[float, list[tuple[float, int, TrialState, Row]]]()
    for trial in sweep.search_trials:
        for row in trial.evals:
            value, point = row["objective"], 1.0 if row.get("final") else row["rung"]
            if point is not None and _could_count(sweep, row) and math.isfinite(value):
                at.setdefault(float(point), []).append((value, trial.number, trial, row))
    found = []
    for point in sorted(at):
        value, _, trial, row = min(at[point], key=lambda entry: _order(sweep, entry))
        found.append(
            {
                "fraction": point,
                "epochs": point * sweep.budget_samples / rows if rows else None,
                "trials": len(at[point]),
                "trial_id": trial.trial_id,
                "objective": value,
                "violation": _violation(sweep, row),
                "honest_end": not _undecayed(trial, row),
            }
        )
    return found


def _order(sweep: SweepState, entry: tuple[float, int, TrialState, Row]) -> tuple[float, float, int]:
    value, place, _, row = entry
    return _violation(sweep, row) or 0.0, sweep.objective.cost(value), place
