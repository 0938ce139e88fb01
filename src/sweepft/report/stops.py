"""What was stopped, by whom, and how often that was wrong - as far as audits tell.

One idea: a stopped trial's fate is unknown; only condemned trials that ran on all the same (audits) can show how
many of the condemned would have been good, and so how many of the good ones were condemned. Without them neither rate
is measured, and the report says so.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

from sweepft.early_stopping.audit import AuditResult, audit_rate, audit_result, audit_weight, good_edge
from sweepft.early_stopping.decisions import BY_PERSON
from sweepft.early_stopping.prior_sweeps import History
from sweepft.ledger import RunView, TrialView

GOOD: Final = 0.2


MAX_BAD_STOPS: Final = 0.1


FALSE_STOP: Final = 0.1


"""The scheduler's own defaults, for specs that do not say."""


BOUNDED: Final = ("conformal", "history")


"""What a verdict may name as the basis of its level for the share of good trials lost to be bounded."""


def stop_summary(view: RunView, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of stops by rule and window, and the audited rate of wrong stops.

    Returns:
        ``stopped``, ``by_rule``, ``by_window`` (counts); ``parked`` (trials parked now) and ``came_back`` (trials that
        trained on after they had been parked); ``audits``: ``good_share`` and ``limit`` (what counts as good, and the
        rate of wrong stops one can live with), ``condemned`` (trials condemned that ran on), ``finished`` (of those,
        completed), ``good`` (of those, among the best ``good_share``), ``earlier`` (``sweeps, audited, good`` of
        earlier sweeps that count too), ``rate`` P(good | condemned) over all of them as ``{value, low, high}`` with
        the exact 95% interval or None, and ``status``: ``certified``, ``refuted`` or ``uncertified``, as the scheduler
        holds it; ``good_lost``: the other rate, see `_good_lost`; ``by_basis``: what each basis of the rule's level
        stopped and saved (``stopped``, ``saved`` in the unit of the cost), ``none`` for rules that bound nothing.
    """
    stopped = [t for t in trials if t["status"] == "stopped"]
    by_rule = Counter(str((t["stop"] or {}).get("rule") or "not recorded") for t in stopped)
    by_window = Counter(_window_label((t["stop"] or {}).get("window")) for t in stopped)
    audits, good_lost = _error_rates(view, trials, len(stopped))
    return {
        "stopped": len(stopped),
        "by_rule": dict(by_rule),
        "by_window": dict(sorted(by_window.items(), key=lambda item: (len(item[0]), item[0]))),
        "parked": sum(t["status"] == "parked" for t in trials),
        "came_back": sum(_came_back(view.trials[t["trial_id"]]) for t in trials),
        "audits": audits,
        "good_lost": good_lost,
        "by_basis": _by_basis(view, trials),
    }


def _error_rates(
    view: RunView, trials: list[dict[str, Any]], stopped: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    condemned = [t for t in trials if t["audited"]]
    ended = sorted((t for t in trials if t["rank"] is not None), key=lambda t: _ended(view, t))
    good_share, limit = _setting(view, "good", GOOD), _setting(view, "max_bad_stops", MAX_BAD_STOPS)
    audit = _audit_rate(view, stopped, len(condemned))
    weights = [audit_weight(_fate(view, t), audit) for t in ended]
    edge = good_edge([-t["objective"] for t in ended], weights, good_share)
    own = [-t["objective"] >= edge for t in ended if t["audited"]]
    kept = sum(-t["objective"] >= edge and _fate(view, t) is None for t in ended)
    past = History.from_dict(view.header.get("history") or {})
    result = audit_result([*past.outcomes, *own], limit)
    interval = {"value": result.rate, "low": result.interval[0], "high": result.interval[1]}
    audits = {
        "good_share": good_share,
        "limit": limit,
        "condemned": len(condemned),
        "finished": len(own),
        "good": sum(own),
        "earlier": {
            "sweeps": len(past.audits),
            "audited": len(past.outcomes),
            "good": sum(past.outcomes),
        },
        "rate": interval if result.audited else None,
        "status": result.status,
    }
    return audits, _good_lost(view, trials, kept, result)


def _good_lost(view: RunView, trials: list[dict[str, Any]], kept: int, result: AuditResult) -> dict[str, Any]:
    """P(condemned | good): the share of this sweep's good trials that the rule condemned.

    Args:
        kept: Good trials that were never condemned.
        result: The audits, which tell the share of the condemned that are good.
    Returns:
        ``condemned`` and ``kept`` (trials); ``asked``, the bound the spec asks for (None where its rule has none);
        ``status``: ``certified`` where every level that condemned was bounded (by history or by conformal ranks), else
        ``uncertified``; ``rate``: ``{value, low, high}``, from q of the condemned being good as q c / (q c + kept); its
        95% interval is that of q carried over, with the edge of the good taken as known. None without audits.
    """
    verdicts = [v for t in trials if (v := _condemned_by(view.trials[t["trial_id"]])) is not None]
    condemned = len(verdicts)
    asked = _setting(view, "false_stop", FALSE_STOP) if _rule(view) == "calibrated" else None
    bounded = condemned > 0 and all(_basis(v) in BOUNDED for v in verdicts)

    def lost(q: float) -> float:
        return q * condemned / (q * condemned + kept) if q * condemned > 0 else 0.0

    values = None
    if condemned and result.rate is not None:
        low, high = result.interval
        values = {"value": lost(result.rate), "low": lost(low), "high": lost(high)}
    status = "certified" if bounded else "uncertified"
    return {"condemned": condemned, "kept": kept, "asked": asked, "status": status, "rate": values}


def _by_basis(view: RunView, trials: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for t in trials:
        verdict = view.trials[t["trial_id"]].stopped_by
        if verdict is None or (t["status"] != "stopped" and not t["saved_seconds"]):
            continue
        row = found.setdefault(_basis(verdict), {"stopped": 0, "saved": 0.0})
        row["stopped"] += 1
        row["saved"] += t["saved_seconds"] * (t["gpus"] or 1.0)
    return found


def _condemned_by(trial: TrialView) -> dict[str, Any] | None:
    """The rule's first verdict against a trial; what a person stopped was not condemned."""
    against = ("stop", "park", "audit")
    return next(
        (v for v in trial.verdicts if v.get("action") in against and v.get("rule") != BY_PERSON), None
    )


def _basis(verdict: dict[str, Any]) -> str:
    """What stood behind the level that condemned: as the rule says, ``person``, or ``none``."""
    if verdict.get("rule") == BY_PERSON:
        return "person"
    evidence = verdict.get("evidence")
    named = evidence.get("basis") if isinstance(evidence, dict) else None
    return named if isinstance(named, str) else "none"


def _rule(view: RunView) -> str:
    return str((view.spec.get("early_stop") or {}).get("rule"))


def _fate(view: RunView, record: dict[str, Any]) -> bool | None:
    """None for a trial that was never condemned, else whether it was audited (or parked, and came back)."""
    if record["audited"]:
        return True
    return False if view.trials[record["trial_id"]].parks else None


def _came_back(trial: TrialView) -> bool:
    return any(v["action"] == "park" and v["step"] < trial.step for v in trial.verdicts)


def _audit_rate(view: RunView, stopped: int, condemned: int) -> float:
    """The share of condemned trials that ran on: as asked, or as it came out where no spec says."""
    stop = view.spec.get("early_stop") or {}
    asked = stop.get("audit")
    known = isinstance(asked, int | float) and not isinstance(asked, bool) and 0 <= asked <= 1
    rate = audit_rate(_rule(view), asked if known else None)
    return rate if rate > 0 or not condemned else condemned / (stopped + condemned)


def _ended(view: RunView, record: dict[str, Any]) -> int:
    """The place of a trial's end in the ledger."""
    return int((view.trials[record["trial_id"]].end or {}).get("seq") or 0)


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
