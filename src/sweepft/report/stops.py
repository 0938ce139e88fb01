"""What was stopped, by whom, and how often that was wrong - as far as audits tell.

One idea: a stopped trial's fate is unknown; only condemned trials that ran on all the same (audits) can
    show how many of the condemned would have been good. Without them the rate is not measured, and the
    report says so.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from sweepft.recorder import RunView
from sweepft.report.stats import proportion

__all__ = ["stop_summary"]

DEFAULT_GOOD = 0.2


def stop_summary(view: RunView, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of stops by rule and window, and the audited false-stop rate.

    Returns:
        ``stopped``, ``by_rule``, ``by_window`` (counts); ``audits``: ``condemned`` (trials condemned and
        run on), ``finished`` (of those, at full budget or diverged), ``good`` (of those, among the best
        ``good_share`` of the completed trials), ``rate`` P(good | condemned) with its exact 95% interval,
        or None without any.
    """
    stopped = [t for t in trials if t["status"] == "stopped"]
    by_rule = Counter(str((t["stop"] or {}).get("rule") or "not recorded") for t in stopped)
    by_window = Counter(_window_label((t["stop"] or {}).get("window")) for t in stopped)
    ranked = [t for t in trials if t["rank"] is not None]
    good_share = _good_share(view)
    good_places = max(1, math.ceil(good_share * len(ranked)))
    condemned = [t for t in trials if t["audited"]]
    finished = [t for t in condemned if t["status"] in ("completed", "diverged")]
    good = [t for t in finished if t["rank"] is not None and t["rank"] <= good_places]
    return {
        "stopped": len(stopped),
        "by_rule": dict(by_rule),
        "by_window": dict(sorted(by_window.items(), key=lambda item: (len(item[0]), item[0]))),
        "audits": {
            "good_share": good_share,
            "condemned": len(condemned),
            "finished": len(finished),
            "good": len(good),
            "rate": asdict(proportion(len(good), len(finished))) if finished else None,
        },
    }


def _good_share(view: RunView) -> float:
    good = (view.spec.get("early_stop") or {}).get("good")
    return float(good) if isinstance(good, int | float) and 0 < good < 1 else DEFAULT_GOOD


def _window_label(window: Any) -> str:
    return (
        f"{window:.0%}" if isinstance(window, int | float) and math.isfinite(window) else "outside a window"
    )
