"""The winner, how sure that is, and what a reader should do about it.

One idea: say what the numbers carry and no more. The noise of held-out samples is known, seed noise is not; trials are
    scored on the same samples, so their difference is judged by its own, paired error where the ledger has it.
"""

from __future__ import annotations

import math
from typing import Any

from sweepft.ledger import SweepState, winner
from sweepft.report.trials import paired_stderr

EDGE_SHARE = 0.05


"""A value this near to the end of a range (as a share of it, on its own scale) sits on the edge."""


def answer(
    view: SweepState, trials: list[dict[str, Any]], finals: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Winner, runner-up, difference and warnings; ``winner`` is None while no trial has completed.

    Returns:
        ``winner``, ``runner_up``: ``{trial_id, config, objective, stderr, validation}`` or None, of the finalists where
        these are scored; ``by``: what they are first and second by; ``replicated``: the winner's held-out loss over
        fresh seeds, or None;
        ``difference``: ``{value, stderr, paired, clear, text}`` (runner-up minus winner, nats per target token;
        ``clear`` when it exceeds 1.96 standard errors, None when those are unknown);
        ``within_noise``: trial ids that are no more than 1.96 standard errors behind; ``edges``; ``headline``.
    """
    ranked = [t for t in trials if t["rank"] is not None]
    decided = _decided(view, finals)
    if decided:
        order = [row["trial_id"] for row in decided["rows"]]
        ranked.sort(key=lambda t: order.index(t["trial_id"]) if t["trial_id"] in order else len(order))
    first, second = (_brief(t) for t in (*ranked[:2], None, None)[:2])
    if first is None:
        return {
            "winner": None,
            "runner_up": None,
            "difference": None,
            "within_noise": [],
            "edges": [],
            "by": "objective",
            "replicated": None,
            "headline": "No trial has completed the full budget yet: there is no winner.",
        }
    if decided and (len(decided["rows"]) < 2 or decided["rows"][1]["place"] is None):
        second = None  # the next one was not scored
    difference = _behind(view, first, second) if second is not None else None
    close = [t["trial_id"] for t in ranked[1:] if _behind(view, first, _brief(t) or {})["clear"] is False]
    headline = _headline(first, difference, len(ranked), len(trials))
    if decided:
        close = []
        if decided["by"] != "objective" or decided["rows"][0]["replicated"]:
            difference = decided["difference"]
        headline = _finals_headline(decided, difference)
    return {
        "winner": first,
        "runner_up": second,
        "difference": difference,
        "within_noise": close,
        "edges": edge_warnings(view, first["params"]),
        "by": decided["by"] if decided else "objective",
        "replicated": decided["rows"][0]["replicated"] if decided else None,
        "headline": headline,
    }


def _decided(view: SweepState, finals: dict[str, Any] | None) -> dict[str, Any] | None:
    """The finalists, once they decide: the view's winner is the first of them."""
    if not finals or not finals["rows"] or finals["rows"][0]["place"] is None or winner(view) is None:
        return None
    over = finals["rows"][0]["trial_id"] == winner(view).trial_id and not finals["open"]
    return finals if over else None


def _finals_headline(finals: dict[str, Any], difference: dict[str, Any] | None) -> str:
    text = f"{finals['rows'][0]['trial_id']} is first of {len(finals['rows'])} finalists by {finals['by']}"
    if difference is None:
        return text + ": nothing to compare it with."
    if difference["clear"] is None:
        return text + "."
    if difference["clear"]:
        return text + ", ahead by more than the noise."
    return text + ", but the runner-up is within the noise."


def edge_warnings(view: SweepState, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the winner sits on an edge of the search space: ``{key, value, side, text}``.

    An edge of a range is its outer `EDGE_SHARE` on the range's own scale; an edge of a choice of three or
    more numbers is its smallest or largest. Natural limits (0 for a fraction) are no edges.
    """
    space = (view.spec.get("search") or {}).get("space") or {}
    found = []
    for key, dimension in space.items():
        value = params.get(key)
        if not isinstance(dimension, dict) or value is None or not _is_number(value):
            continue
        side = _side(float(value), dimension)
        if side is None or (side == "low" and value == 0):
            continue
        way = "upwards" if side == "high" else "downwards"
        end = "upper" if side == "high" else "lower"
        text = f"The winner's {key} = {value:g} lies on the {end} edge: widen {key} {way}."
        found.append({"key": key, "value": value, "side": side, "text": text})
    return found


def _side(value: float, dimension: dict[str, Any]) -> str | None:
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


def _behind(view: SweepState, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    paired = paired_stderr(view, *(view.trials[t["trial_id"]] for t in (first, second)))
    return difference_of(first, second, paired)


def difference_of(
    first: dict[str, Any], second: dict[str, Any], paired: float | None = None
) -> dict[str, Any]:
    """How far ``second`` is behind ``first``: ``{value, stderr, paired, clear, text}``, as in `answer`.

    Args:
        first: With ``objective`` and ``stderr``.
        second: Likewise.
        paired: Standard error of their difference, where it is known; else both are taken as independent, which
            overstates it.
    """
    value = second["objective"] - first["objective"]
    told = {"value": value, "paired": paired is not None}
    if paired is None and (first["stderr"] is None or second["stderr"] is None):
        return told | {"stderr": None, "clear": None, "text": "no standard error was recorded"}
    stderr = math.hypot(first["stderr"], second["stderr"]) if paired is None else paired
    clear = bool(value > 1.96 * stderr)
    if clear:
        text = "more than the held-out noise; seed noise is not in it"
    elif paired is None:
        text = "within the held-out noise taken as unpaired: the two cannot be told apart by this"
    else:
        text = "within the held-out noise: the two cannot be told apart by this"
    return told | {"stderr": stderr, "clear": clear, "text": text}


def _headline(first: dict[str, Any], difference: dict[str, Any] | None, ranked: int, trials: int) -> str:
    text = f"{first['trial_id']} is first of {ranked} completed trials ({trials} in all)"
    if difference is None:
        return text + ": nothing to compare it with."
    if difference["clear"]:
        return text + ", ahead by more than the held-out noise."
    if difference["clear"] is None:
        return text + "."
    return text + ", but the runner-up is within the held-out noise."


def _brief(trial: dict[str, Any] | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    kept = {k: trial[k] for k in ("trial_id", "params", "objective", "validation", "seconds")}
    return {**kept, "stderr": trial["objective_stderr"]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
