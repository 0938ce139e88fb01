"""The winner, the runner-up, how certain their order is, and warnings about the search space.

Trials are evaluated on the same validation samples, so their difference has its own, paired standard error where the
ledger has the residuals. Seed noise is never part of it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from sweepft.ledger import VALIDATION_LOSS, Objective, SweepState, winner
from sweepft.report.trials import paired_stderr

EDGE_SHARE: Final = 0.05  # a value within this share of the end of a range, on its own scale, is on the edge
Z_95: Final = 1.96


def result_summary(
    sweep: SweepState, trials: list[dict[str, Any]], finalists: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Winner, runner-up, difference and warnings; ``winner`` is None until a trial completes.

    Returns:
        ``winner``, ``runner_up``: ``{trial_id, params, objective, stderr, validation, seconds}`` or None, of the
        finalists once these are scored; ``criterion``: what orders them; ``replicated``: the winner's validation loss
        over its replicates, or None; ``difference``: ``{value, stderr, paired, clear, text}`` (how far the runner-up is
        behind, in the unit of the objective; ``clear`` where it exceeds 1.96 standard errors, None where these are
        unknown);
        ``within_noise``: ids of trials at most 1.96 standard errors behind; ``edges``; ``headline``. Where trials meet
        the bounds on validation losses, the others are neither runner-up nor within noise; where none does, there is
        no runner-up.
    """
    ranked = [t for t in trials if t["rank"] is not None]
    decided = finalists if finalists and _decide(sweep, finalists) else None
    if decided:
        order = [row["trial_id"] for row in decided["rows"]]
        ranked.sort(key=lambda t: order.index(t["trial_id"]) if t["trial_id"] in order else len(order))
    bounded = bool(sweep.bounds.limits)
    met = [t for t in ranked if not t["violation"]]
    candidates = [_candidate(t) for t in (met or ranked[:1])]
    first, others = candidates[0] if candidates else None, candidates[1:]
    second = others[0] if others else None
    if decided and (len(decided["rows"]) < 2 or decided["rows"][1]["place"] is None):
        second = None  # the next finalist has no scores
    if first is None:
        headline = "No trial has completed the full budget yet: there is no winner."
        difference: dict[str, Any] | None = None
        close: list[str] = []
    else:
        difference = None if second is None else _behind(sweep, first, second)
        close = [t["trial_id"] for t in others if _behind(sweep, first, t)["clear"] is False]
        of = f"{len(ranked)} completed trials ({len(trials)} in all)"
        if bounded and met:
            of = f"{len(met)} trials that meet the bounds ({len(ranked)} completed, {len(trials)} in all)"
        noise = NOISE[sweep.objective.task is not None]
        headline = _headline(f"{first['trial_id']} is first of {of}", difference, noise)
        if not met:
            headline = f"{first['trial_id']} is nearest to the bounds, which no completed trial meets."
    if decided:
        close = []
        if decided["criterion"] != "objective" or decided["rows"][0]["replicated"]:
            difference = None if second is None else decided["difference"]
        name, n = decided["rows"][0]["trial_id"], len(decided["rows"])
        if met or not bounded:
            of = f"{n} finalists by {decided['criterion']}"
            headline = _headline(f"{name} is first of {of}", difference, "noise")
    return {
        "winner": first,
        "runner_up": second,
        "difference": difference,
        "within_noise": close,
        "edges": [] if first is None else edge_warnings(sweep, first["params"], first["derived"]),
        "criterion": decided["criterion"] if decided else "objective",
        "replicated": decided["rows"][0]["replicated"] if decided else None,
        "headline": headline,
    }


def _decide(sweep: SweepState, finalists: dict[str, Any]) -> bool:
    """Whether the finalists' scores decide the winner already."""
    rows = finalists["rows"]
    best = winner(sweep)
    if not rows or rows[0]["place"] is None or best is None:
        return False
    return rows[0]["trial_id"] == best.trial_id and not finalists["in_progress"]


def _candidate(trial: dict[str, Any]) -> dict[str, Any]:
    kept = {
        k: trial[k]
        for k in (
            *("trial_id", "params", "derived", "objective", "bits_per_byte", "validation", "tasks", "best"),
            "seconds",
        )
    }
    return {**kept, "stderr": trial["objective_stderr"]}


def _headline(text: str, difference: dict[str, Any] | None, noise: str) -> str:
    if difference is None:
        return text + ": nothing to compare it with."
    if difference["clear"] is None:
        return text + "."
    if difference["clear"]:
        return text + f", ahead by more than the {noise}."
    return text + f", but the runner-up is within the {noise}."


def _behind(sweep: SweepState, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    paired = paired_stderr(sweep, *(sweep.trials[t["trial_id"]] for t in (first, second)))
    return difference_of(first, second, paired, sweep.objective)


NOISE: Final = {False: "validation noise", True: "noise over the items"}
"""What the standard error of an objective is, by whether it is a task's."""


def difference_of(
    first: dict[str, Any],
    second: dict[str, Any],
    paired: float | None = None,
    objective: Objective = VALIDATION_LOSS,
) -> dict[str, Any]:
    """How far ``second`` is behind ``first``: ``{value, stderr, paired, clear, text}``, as in `result_summary`.

    Args:
        first, second: With ``objective`` and ``stderr``.
        paired: Standard error of their difference, where known; else both are treated as independent, which
            overstates it.
        objective: What the values are of.
    """
    value, noise = objective.ahead(first["objective"], second["objective"]), NOISE[objective.task is not None]
    found = {"value": value, "paired": paired is not None}
    if paired is None and (first["stderr"] is None or second["stderr"] is None):
        return found | {"stderr": None, "clear": None, "text": "no standard error was recorded"}
    stderr = math.hypot(first["stderr"], second["stderr"]) if paired is None else paired
    clear = bool(value > Z_95 * stderr)
    if clear:
        text = f"more than the {noise}, which does not include seed noise"
    elif paired is None:
        text = f"within the unpaired {noise}: the order of the two is not certain"
    else:
        text = f"within the {noise}: the order of the two is not certain"
    return found | {"stderr": stderr, "clear": clear, "text": text}


def edge_warnings(
    sweep: SweepState, params: dict[str, Any], derived: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Where the winner sits on an edge of the search space: ``{key, value, side, text}``.

    The edge of a range is its outer `EDGE_SHARE` on the range's own scale; that of a choice of three or more numbers
    is its smallest or largest value. Natural limits (0 for a fraction) are no edges.
    """
    space = (sweep.spec.get("search") or {}).get("space") or {}
    found = []
    for key, dimension in space.items():
        value, name = params.get(key), key
        if isinstance(dimension, dict) and dimension.get("at_batch"):
            name = f"{key} at batch {dimension['at_batch']}"
            value = (derived or {}).get(name)
        if not isinstance(dimension, dict) or value is None or not _is_number(value):
            continue
        side = _edge(float(value), dimension)
        if side is None or (side == "low" and value == 0):
            continue
        direction, end = ("upwards", "upper") if side == "high" else ("downwards", "lower")
        text = f"The winner's {name} = {value:g} lies on the {end} edge: widen {key} {direction}."
        found.append({"key": key, "value": value, "side": side, "text": text})
    return found


def _edge(value: float, dimension: dict[str, Any]) -> str | None:
    choice = dimension.get("choice")
    if choice is not None:
        if len(choice) < 3 or not all(_is_number(c) for c in choice):
            return None
        return "low" if value <= min(choice) else "high" if value >= max(choice) else None
    for kind in ("log_uniform", "uniform", "int_uniform"):
        bounds = dimension.get(kind)
        if bounds:
            low, high = (float(b) for b in bounds)
            if kind == "log_uniform" and min(low, high, value) > 0:
                low, high, value = math.log(low), math.log(high), math.log(value)
            place = (value - low) / (high - low) if high > low else 0.5
            return "low" if place <= EDGE_SHARE else "high" if place >= 1 - EDGE_SHARE else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
