"""Bounds on validation losses and tasks (``search.subject_to``): which trials meet them, and the front of what can be
had.

The front holds the completed trials that no other one beats on the objective and on all that is bounded: what each nat
of forgetting buys.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from sweepft.ledger import Bound, SweepState, pareto_front
from sweepft.report.format import number


def bounds_summary(
    sweep: SweepState, trials: list[dict[str, Any]], kept: Collection[str] | None = None
) -> dict[str, Any] | None:
    """The bounds and how completed trials stand to them; None without bounds.

    Args:
        sweep: The sweep.
        trials: Records of its trials, in the order of the ranking.
        kept: Trials with weights in the run folder; None where that is not known.

    Returns:
        ``sets``: rows ``set, metric`` (of a task, else None), ``at_most, at_least, above_base, below_base, base,
        limit`` (the worst value allowed), ``problem``; ``pending``: whether the base model is still to be measured;
        ``completed`` and ``met``: numbers of trials; ``nearest``: ``{trial_id, over}`` of the trial that comes nearest,
        where none meets the bounds; ``front``: rows ``trial_id, objective, losses`` (of a task its value),
        ``violation, weights``, the best objective first; ``text``.
    """
    bounds = sweep.bounds
    if not bounds.entries:
        return None
    ranked = [t for t in trials if t["rank"] is not None]
    names, signs = [bound.name for bound in bounds.entries], [bound.sign for bound in bounds.entries]
    costs = {t["trial_id"]: sweep.trials[t["trial_id"]].losses for t in ranked}
    points: dict[str, tuple[Any, ...]] = {
        t["trial_id"]: (
            sweep.objective.cost(t["objective"]),
            *(costs[t["trial_id"]].get(n) for n in names),
        )
        for t in ranked
    }
    points = {n: point for n, point in points.items() if None not in point and all(map(math.isfinite, point))}
    records = {t["trial_id"]: t for t in ranked}
    met = sum(t["violation"] == 0 for t in ranked)
    nearest = None
    if bounds.limits and ranked and not met:
        nearest = {"trial_id": ranked[0]["trial_id"], "over": ranked[0]["violation"]}
    found = {
        "sets": [_row(bound) for bound in bounds.entries],
        "pending": bounds.pending,
        "completed": len(ranked),
        "met": met if bounds.limits else None,
        "nearest": nearest,
        "front": [
            {
                "trial_id": name,
                "objective": records[name]["objective"],
                "losses": {
                    n: sign * cost for n, sign, cost in zip(names, signs, points[name][1:], strict=True)
                },
                "violation": records[name]["violation"],
                "weights": None if kept is None else name in kept,
            }
            for name in pareto_front(points)
        ],
    }
    return found | {"text": _text(found)}


def bounded_values(found: dict[str, Any], winner: dict[str, Any]) -> str:
    """The winner's values of what is bounded, with the base model's and the worst ones allowed.

    Args:
        found: Of `bounds_summary`.
        winner: Its record.
    """
    parts = []
    for row in found["sets"]:
        own = winner["validation"].get(row["set"], {}).get("loss")
        if row["metric"] is not None:
            own = (winner["tasks"].get(row["set"]) or {}).get("value")
        if own is None:
            continue
        beside = [] if row["base"] is None else [f"base model {number(row['base'])}"]
        if row["limit"] is not None:
            at = "at least" if row["at_least"] is not None or row["below_base"] else "at most"
            beside.append(f"allowed {at} {number(row['limit'])}")
        parts.append(f"{row['set']} {number(own)}" + (f" ({', '.join(beside)})" if beside else ""))
    return "; ".join(parts)


def _row(bound: Bound) -> dict[str, Any]:
    return {
        "set": bound.name, "metric": bound.metric, "at_most": bound.at_most, "at_least": bound.at_least,
        "above_base": bound.above_base, "below_base": bound.below_base, "base": bound.base, "limit": bound.worst,
        "problem": bound.problem,
    }  # fmt: skip


def _text(found: dict[str, Any]) -> str:
    asked = "; ".join(map(_asked, found["sets"]))
    if found["pending"]:
        return f"Bounds: {asked}."
    if found["nearest"] is not None:
        near = found["nearest"]
        over = "by an unknown amount"
        if near["over"] is not None and math.isfinite(near["over"]):
            unit = "" if any(row["metric"] for row in found["sets"]) else " nats"
            over = f"{number(near['over'], 3)}{unit} {'beyond' if not unit else 'above'}"
        forgets = any(row["above_base"] or row["below_base"] for row in found["sets"])
        towards = " towards settings that forget less, such as lower learning rates" if forgets else ""
        return (
            f"No completed trial meets the bounds ({asked}): {near['trial_id']} comes nearest, {over}, and stands "
            f"first. Allow more, or extend the search{towards}."
        )
    if found["met"] is None:
        return f"The bounds do not apply: {asked}."
    return f"{found['met']} of {found['completed']} completed trials meet the bounds: {asked}."


def _asked(row: dict[str, Any]) -> str:
    name, nats = (row["set"], " nats") if row["metric"] is None else (f"{row['set']} {row['metric']}", "")
    if row["at_least"] is not None:
        return f"{name} at least {number(row['at_least'])}"
    amount = f"{name} at most {number(row['at_most'])}{nats}"
    if not row["above_base"] and not row["below_base"]:
        return amount
    text = f"{amount} {'above' if row['above_base'] else 'below'} the base model"
    what = "loss" if row["metric"] is None else "score"
    if row["problem"]:
        return f"{text}, whose {what} was not measured ({row['problem']})"
    return text + (
        f"'s {number(row['base'])}" if row["base"] is not None else f", whose {what} is being measured"
    )
