"""Whether the search ended because a further trial was not worth its cost (``search.enough``), and what that saved."""

from __future__ import annotations

from typing import Any

from sweepft.ledger import SweepState
from sweepft.report.format import duration, number, time_unit


def enough_summary(
    sweep: SweepState, trials: list[dict[str, Any]], cost: dict[str, Any]
) -> dict[str, Any] | None:
    """What the checks of ``search.enough`` found; None without that key.

    Args:
        sweep: The sweep.
        trials: Records of its trials.
        cost: Of `sweepft.report.cost.cost_summary`.

    Returns:
        ``gain`` and ``min_trials`` as asked; ``reached``: whether the search ended for it; ``expected``: the gain that
        was expected of a further trial at the last check, in the unit of the objective (None before any);
        ``completed``: trials that this estimate is based on; ``checks``: rows ``[completed, expected]``;
        ``saved_trials`` (None where the spec sets no number of trials) and ``saved_seconds``, these at the mean cost of
        a trial, in the unit of ``cost``; ``text``.
    """
    asked = (sweep.spec.get("search") or {}).get("enough")
    if not asked:
        return None
    ended, last = sweep.found_enough, sweep.enough[-1] if sweep.enough else None
    open_ = ("running", "paused", "interrupted")
    over = [t for t in trials if t["replicate_of"] is None and t["status"] not in open_]
    weights = [t["gpus"] if cost["unit"] == "gpu_seconds" else 1.0 for t in over]
    used = sum(t["seconds"] * weight for t, weight in zip(over, weights, strict=True))
    saved = None if ended is None else ended["left"]
    found = {
        "gain": asked["gain"],
        "min_trials": asked.get("min_trials"),
        "reached": ended is not None,
        "expected": None if last is None else last["expected"],
        "completed": 0 if last is None else last["completed"],
        "checks": [[row["completed"], row["expected"]] for row in sweep.enough],
        "saved_trials": saved,
        "saved_seconds": saved * used / len(over) if saved is not None and over else None,
    }
    stopped = sum(t["status"] == "stopped" for t in over)
    unit = "nats" if sweep.objective.task is None else f"of {sweep.objective.name}"
    return found | {"text": _text(found, len(over), stopped, unit, time_unit(cost))}


def _text(found: dict[str, Any], over: int, stopped: int, unit: str, time: str) -> str:
    asked, expected = number(found["gain"]), f"{number(found['expected'], 2)} {unit}"
    if found["expected"] is None:
        return (
            "search.enough: the gain of a further trial was not estimated, which takes "
            f"{found['min_trials']} completed trials and the end of the baseline."
        )
    basis = f"estimated from {found['completed']} completed trials"
    basis += f"; the {stopped} that were stopped early do not count" if stopped else ""
    if not found["reached"]:
        return (
            f"search.enough has not ended the search: a further trial is expected to gain up to {expected}, not "
            f"less than {asked} ({basis})."
        )
    text = (
        f"The search ended after {over} trials: a further one is expected to gain at most {expected}, less than "
        f"{asked} ({basis})."
    )
    if not found["saved_trials"]:
        return text
    saved = f" This saved {found['saved_trials']} of {over + found['saved_trials']} trials"
    if found["saved_seconds"] is not None:
        saved += f", about {duration(found['saved_seconds'])} of {time} time at the mean cost of a trial"
    return f"{text}{saved}."
