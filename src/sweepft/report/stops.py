"""What was stopped, by whom, and how often that was wrong - as far as audits tell.

One idea: a stopped trial's fate is unknown; only condemned trials that ran on all the same (audits) can show how
many of the condemned would have been good. Without them the rate is not measured, and the report says so.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

from sweepft.recorder import RunView
from sweepft.rules.audit import audit_result

__all__ = ["stop_summary"]

GOOD: Final = 0.2
MAX_BAD_STOPS: Final = 0.1
"""The scheduler's own defaults, for specs that do not say."""


def stop_summary(view: RunView, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of stops by rule and window, and the audited rate of wrong stops.

    Returns:
        ``stopped``, ``by_rule``, ``by_window`` (counts); ``audits``: ``good_share`` and ``limit`` (what counts as
        good, and the rate of wrong stops one can live with), ``condemned`` (trials condemned that ran on),
        ``finished`` (of those, completed), ``good`` (of those, among the best ``good_share``), ``rate``
        P(good | condemned) as ``{value, low, high}`` with the exact 95% interval or None, and ``status``:
        ``certified``, ``refuted`` or ``uncertified``, as the scheduler holds it.
    """
    stopped = [t for t in trials if t["status"] == "stopped"]
    by_rule = Counter(str((t["stop"] or {}).get("rule") or "not recorded") for t in stopped)
    by_window = Counter(_window_label((t["stop"] or {}).get("window")) for t in stopped)
    condemned = [t for t in trials if t["audited"]]
    finished = sorted((t for t in condemned if t["rank"] is not None), key=lambda t: _ended(view, t))
    good_share, limit = _setting(view, "good", GOOD), _setting(view, "max_bad_stops", MAX_BAD_STOPS)
    edge = _good_edge(
        [t for t in trials if t["rank"] is not None], good_share, _weight(view, stopped, condemned)
    )
    result = audit_result([t["objective"] <= edge for t in finished], limit)
    interval = {"value": result.rate, "low": result.interval[0], "high": result.interval[1]}
    return {
        "stopped": len(stopped),
        "by_rule": dict(by_rule),
        "by_window": dict(sorted(by_window.items(), key=lambda item: (len(item[0]), item[0]))),
        "audits": {
            "good_share": good_share,
            "limit": limit,
            "condemned": len(condemned),
            "finished": result.audited,
            "good": result.good,
            "rate": interval if finished else None,
            "status": result.status,
        },
    }


def _good_edge(ranked: list[dict[str, Any]], share: float, weight: float) -> float:
    """The objective up to which a trial is good: the best ``share``, an audited trial counting ``weight`` times."""
    weights = [weight if t["audited"] else 1.0 for t in ranked]
    wanted, seen = share * sum(weights), 0.0
    for t, w in zip(ranked, weights, strict=True):
        seen += w
        if seen >= wanted - 1e-9:
            return float(t["objective"])
    return -math.inf


def _weight(view: RunView, stopped: list[Any], condemned: list[Any]) -> float:
    """How many condemned trials an audited one stands for: 1 / audit, or as it came out where that is not said."""
    rate = _setting(view, "audit", 0.0)
    if rate > 0:
        return 1.0 / rate
    return (len(stopped) + len(condemned)) / len(condemned) if condemned else 1.0


def _ended(view: RunView, record: dict[str, Any]) -> float:
    return view.trials[record["trial_id"]].ended or 0.0


def _setting(view: RunView, key: str, other: float) -> float:
    value = (view.spec.get("early_stop") or {}).get(key)
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
        else other
    )


def _window_label(window: Any) -> str:
    return (
        f"{window:.0%}" if isinstance(window, int | float) and math.isfinite(window) else "outside a window"
    )
