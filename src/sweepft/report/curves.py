"""Learning curves and timelines small enough for a page: what the charts and the trial view draw.

A point is the mean of a run of neighbouring steps, so that a thinned curve is not a random pick of its noise. The
ledger keeps every step.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.ledger import Attempt, SweepState, TrialState

TOTAL_POINTS: Final = 48_000  # of all trials: what a browser draws smoothly, and what keeps the file small
MAX_POINTS: Final = 300
LEADERS: Final = 12  # the first trials, which people look at, keep MAX_POINTS in a sweep of any size
_SAME_RESULT: Final = 0.2  # seconds within which the rows of one result are written


def page_curves(sweep: SweepState, order: list[str], rungs: list[float]) -> list[dict[str, Any]]:
    """Thinned curves, evaluations and decisions, one entry a trial in the given order.

    Returns:
        ``s, x, t, l, g, r``: steps, samples, slot-seconds of training, loss, gradient norm, learning rate;
        ``e``: rows ``[step, samples, slot-seconds, objective, {set: loss}]``; ``v``: decisions; ``f``: faults;
        ``c``: the whole train config.
    """
    points = int(np.clip(TOTAL_POINTS / max(1, len(order)), 24, MAX_POINTS))
    evidence_limit = 2000 if len(order) <= 300 else 300
    return [
        _curve(sweep.trials[t], MAX_POINTS if place < LEADERS else points, evidence_limit)
        for place, t in enumerate(order)
    ]


def waits(sweep: SweepState) -> list[list[Any]]:
    """Rows ``[phase, slot, start, end]``: times of a slot that belong to no trial; seconds since the first row."""
    attempts: dict[str, list[Attempt]] = {}
    for trial in sweep.trials.values():
        for attempt in trial.attempts:
            attempts.setdefault(str(attempt.slot), []).append(attempt)
    found = []
    last_reported: dict[str, tuple[float, float]] = {}  # by slot: when, and the seconds reported then
    for row in sweep.costs:
        if row.get("trial_id") is not None or row.get("slot") is None or not row["seconds"] > 0:
            continue
        slot = str(row["slot"])
        # Reported with the first result of the next trial, so it ends where that trial began; or at the sweep's end.
        reported, slack = row["time"], min(0.05, row["seconds"] / 2)
        running = [a.started for a in attempts.get(slot, ()) if a.started <= reported <= a.last + slack]
        # The phases of an evaluation job and the wait before it are reported together: one ends where the next began.
        before, spent = last_reported.get(slot, (0.0, 0.0))
        spent = spent if reported - before < _SAME_RESULT else 0.0
        last_reported[slot] = (reported, spent + row["seconds"])
        end = max(running, default=reported - spent) - sweep.first_time
        start = max(0.0, end - row["seconds"])
        found.append([row["phase"], slot, round(start, 2), round(end, 2)])
    return found


def timeline(sweep: SweepState) -> list[list[Any]]:
    """Rows ``[trial_id, slot, start, end, attempt, how, switch]``, one an attempt; seconds since the first row.

    ``how`` the attempt ended: the trial's status for its last one, else ``paused`` or ``interrupted``. ``switch``:
    seconds from its start until it was ready to train.
    """

    def since(moment: float) -> float:
        return round(moment - sweep.first_time, 2)

    return [
        [t.trial_id, str(a.slot), since(a.started), since(a.last), a.attempt, _how(t, a), _switch(a)]
        for t in sweep.trials.values()
        for a in t.attempts
    ]


def _switch(attempt: Attempt) -> float:
    return round(min(attempt.switch_seconds or 0.0, attempt.last - attempt.started), 2)


def _how(trial: TrialState, attempt: Attempt) -> str:
    return trial.status if attempt is trial.attempts[-1] else "paused" if attempt.paused else "interrupted"


def _curve(trial: TrialState, points: int, evidence_limit: int) -> dict[str, Any]:
    history = trial.history
    clock = np.nancumsum(history["seconds"])
    n = len(clock)
    edges = np.unique(np.linspace(0, n, min(points, n) + 1).astype(int))
    last = edges[1:] - 1
    steps = history["step"]

    def at(step: float) -> float:
        index = int(np.searchsorted(steps, step))
        return float(clock[min(index, n - 1)]) if n else 0.0

    return {
        "s": _short(steps[last], 9),
        "x": _short(history["samples_seen"][last], 9),
        "t": _short(clock[last], 5),
        "l": _short(_means(history["loss"], edges), 5),
        "g": _short(_means(history["grad_norm"], edges), 4),
        "r": _short(history["lr"][last], 4),
        "e": [
            [
                e["step"],
                e["samples_seen"],
                _digits(at(e["step"]), 5),
                _digits(e.get("objective"), 6),
                {k: _digits((v or {}).get("loss"), 6) for k, v in (e.get("sets") or {}).items()},
            ]
            for e in trial.evals
        ],
        "v": [
            {
                k: _clip(d.get(k), evidence_limit)
                for k in ("step", "samples_seen", "rung", "action", "rule", "reason")
            }
            | {"p_top": d.get("p_top"), "evidence": _clip(d.get("evidence"), evidence_limit)}
            for d in trial.decisions
        ],
        "f": [
            {k: _clip(f.get(k), 2000) for k in ("error", "message", "action", "lost_seconds")}
            for f in trial.faults
        ],
        "c": trial.train_config,
    }


def _means(values: NDArray[np.float64], edges: NDArray[np.int_]) -> NDArray[np.float64]:
    """Mean of each bin; a bin with a value that is not finite is NaN, so that a divergence shows as a gap."""
    if not len(values):
        return values
    return np.asarray(np.add.reduceat(values, edges[:-1]) / np.diff(edges))


def _short(values: NDArray[np.float64], digits: int) -> list[float | int | None]:
    return [_digits(v, digits) for v in values.tolist()]


def _digits(value: Any, digits: int) -> float | int | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _clip(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + "…"
    if isinstance(value, dict) and len(str(value)) > limit:
        return {"shortened": str(value)[:limit] + "…"}
    return value
