"""What was stopped, by whom, and how often that was wrong - as far as audits tell.

One idea: a stopped trial's fate is unknown; only condemned trials that ran on all the same (audits) can show how
many of the condemned would have been good, and so how many of the good ones were condemned. Without them neither rate
is measured, and the report says so.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

from sweepft.early_stopping.audit import AuditResult, audit_rate, audit_result, audit_weight, top_edge
from sweepft.early_stopping.decisions import BY_USER
from sweepft.early_stopping.prior_sweeps import PriorSweeps
from sweepft.ledger import SweepState, TrialState

GOOD: Final = 0.2


MAX_BAD_STOPS: Final = 0.1


FALSE_STOP: Final = 0.1


"""The scheduler's own defaults, for specs that do not say."""


BOUNDED: Final = ("conformal", "prior_sweeps")


"""What a verdict may name as the basis of its level for the share of good trials lost to be bounded."""


def stop_summary(view: SweepState, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of stops by rule and window, and the audited rate of wrong stops.

    Returns:
        ``stopped``, ``by_rule``, ``by_rung`` (counts); ``paused`` (trials parked now) and ``came_back`` (trials that
        trained on after they had been parked); ``audits``: ``good_share`` and ``limit`` (what counts as good, and the
        rate of wrong stops one can live with), ``flagged`` (trials condemned that ran on), ``finished`` (of those,
        completed), ``good`` (of those, among the best ``good_share``), ``earlier`` (``sweeps, audited, good`` of
        earlier sweeps that count too), ``rate`` P(good | condemned) over all of them as ``{value, low, high}`` with
        the exact 95% interval or None, and ``status``: ``certified``, ``refuted`` or ``uncertified``, as the scheduler
        holds it; ``good_lost``: the other rate, see `_good_lost`; ``by_basis``: what each basis of the rule's level
        stopped and saved (``stopped``, ``saved`` in the unit of the cost), ``none`` for rules that bound nothing.
    """
    stopped = [t for t in trials if t["status"] == "stopped"]
    by_rule = Counter(str((t["stop"] or {}).get("rule") or "not recorded") for t in stopped)
    by_rung = Counter(_rung_label((t["stop"] or {}).get("rung")) for t in stopped)
    audits, good_lost = _error_rates(view, trials, len(stopped))
    return {
        "stopped": len(stopped),
        "by_rule": dict(by_rule),
        "by_rung": dict(sorted(by_rung.items(), key=lambda item: (len(item[0]), item[0]))),
        "paused": sum(t["status"] == "paused" for t in trials),
        "came_back": sum(_came_back(view.trials[t["trial_id"]]) for t in trials),
        "audits": audits,
        "good_lost": good_lost,
        "by_basis": _by_basis(view, trials),
    }


def _error_rates(
    view: SweepState, trials: list[dict[str, Any]], stopped: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    flagged = [t for t in trials if t["audited"]]
    ended = sorted((t for t in trials if t["rank"] is not None), key=lambda t: _ended(view, t))
    good_share, limit = (
        _setting(view, "top_fraction", GOOD),
        _setting(view, "max_false_discovery_rate", MAX_BAD_STOPS),
    )
    audit = _audit_rate(view, stopped, len(flagged))
    weights = [audit_weight(_fate(view, t), audit) for t in ended]
    edge = top_edge([-t["objective"] for t in ended], weights, good_share)
    own = [-t["objective"] >= edge for t in ended if t["audited"]]
    kept = sum(-t["objective"] >= edge and _fate(view, t) is None for t in ended)
    past = PriorSweeps.from_dict(view.header.get("prior_sweeps") or {})
    result = audit_result([*past.outcomes, *own], limit)
    interval = {"value": result.rate, "low": result.interval[0], "high": result.interval[1]}
    audits = {
        "good_share": good_share,
        "limit": limit,
        "flagged": len(flagged),
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


def _good_lost(
    view: SweepState, trials: list[dict[str, Any]], kept: int, result: AuditResult
) -> dict[str, Any]:
    """P(condemned | good): the share of this sweep's good trials that the rule condemned.

    Args:
        kept: Good trials that were never condemned.
        result: The audits, which tell the share of the condemned that are good.
    Returns:
        ``flagged`` and ``kept`` (trials); ``asked``, the bound the spec asks for (None where its rule has none);
        ``status``: ``certified`` where every level that condemned was bounded (by history or by conformal ranks), else
        ``uncertified``; ``rate``: ``{value, low, high}``, from q of the condemned being good as q c / (q c + kept); its
        95% interval is that of q carried over, with the edge of the good taken as known. None without audits.
    """
    decisions = [v for t in trials if (v := _flagged_by(view.trials[t["trial_id"]])) is not None]
    flagged = len(decisions)
    asked = _setting(view, "max_false_stop_rate", FALSE_STOP) if _rule(view) == "calibrated" else None
    bounded = flagged > 0 and all(_basis(v) in BOUNDED for v in decisions)

    def lost(q: float) -> float:
        return q * flagged / (q * flagged + kept) if q * flagged > 0 else 0.0

    values = None
    if flagged and result.rate is not None:
        low, high = result.interval
        values = {"value": lost(result.rate), "low": lost(low), "high": lost(high)}
    status = "certified" if bounded else "uncertified"
    return {"flagged": flagged, "kept": kept, "asked": asked, "status": status, "rate": values}


def _by_basis(view: SweepState, trials: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for t in trials:
        decision = view.trials[t["trial_id"]].stopped_by
        if decision is None or (t["status"] != "stopped" and not t["saved_seconds"]):
            continue
        row = found.setdefault(_basis(decision), {"stopped": 0, "saved": 0.0})
        row["stopped"] += 1
        row["saved"] += t["saved_seconds"] * (t["gpus"] or 1.0)
    return found


def _flagged_by(trial: TrialState) -> dict[str, Any] | None:
    """The rule's first verdict against a trial; what a person stopped was not condemned."""
    against = ("stop", "pause", "audit")
    return next((v for v in trial.decisions if v.get("action") in against and v.get("rule") != BY_USER), None)


def _basis(decision: dict[str, Any]) -> str:
    """What stood behind the level that condemned: as the rule says, ``person``, or ``none``."""
    if decision.get("rule") == BY_USER:
        return "user"
    evidence = decision.get("evidence")
    named = evidence.get("basis") if isinstance(evidence, dict) else None
    return named if isinstance(named, str) else "none"


def _rule(view: SweepState) -> str:
    return str((view.spec.get("early_stop") or {}).get("rule"))


def _fate(view: SweepState, record: dict[str, Any]) -> bool | None:
    """None for a trial that was never condemned, else whether it was audited (or parked, and came back)."""
    if record["audited"]:
        return True
    return False if view.trials[record["trial_id"]].pauses else None


def _came_back(trial: TrialState) -> bool:
    return any(v["action"] == "pause" and v["step"] < trial.step for v in trial.decisions)


def _audit_rate(view: SweepState, stopped: int, flagged: int) -> float:
    """The share of condemned trials that ran on: as asked, or as it came out where no spec says."""
    stop = view.spec.get("early_stop") or {}
    asked = stop.get("audit")
    known = isinstance(asked, int | float) and not isinstance(asked, bool) and 0 <= asked <= 1
    rate = audit_rate(_rule(view), asked if known else None)
    return rate if rate > 0 or not flagged else flagged / (stopped + flagged)


def _ended(view: SweepState, record: dict[str, Any]) -> int:
    """The place of a trial's end in the ledger."""
    return int((view.trials[record["trial_id"]].end or {}).get("seq") or 0)


def _setting(view: SweepState, key: str, other: float) -> float:
    value = (view.spec.get("early_stop") or {}).get(key)
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
        else other
    )


def _rung_label(rung: Any) -> str:
    return f"{rung:.0%}" if isinstance(rung, int | float) and math.isfinite(rung) else "outside a window"
