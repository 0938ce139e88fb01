"""Stopped trials, and the two error rates of early stopping as far as audits measure them.

What a stopped trial would have reached is unknown. Only audits, flagged trials that were trained to completion, show
how many flagged trials were top trials, and from that how many top trials were flagged. Without audits neither rate
is measured.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

from sweepft.early_stopping.audit import AuditResult, audit_rate, audit_result, audit_weight, top_edge
from sweepft.early_stopping.decisions import BOUNDS, BY_USER, DIVERGENCE_CHECK, NOT_BY_RULES
from sweepft.early_stopping.prior_sweeps import PriorSweeps
from sweepft.ledger import SweepState, TrialState
from sweepft.report.trials import remaining_seconds, rungs_of

# The scheduler's defaults, for specs without these keys.
_DEFAULTS: Final = {"top_fraction": 0.2, "max_false_discovery_rate": 0.1, "max_false_stop_rate": 0.1}
# Bases of a rule's level that bound the false stop rate.
_BOUNDED: Final = ("conformal", "prior_sweeps")


def stop_summary(sweep: SweepState, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Stops by rule and rung, and the audited error rates.

    Returns:
        ``stopped``, ``by_rule``, ``by_rung``: counts; ``paused``: trials paused now; ``resumed``: trials that trained
        on after a pause; ``audits``: P(top | flagged), see `_audits`; ``false_stops``: P(flagged | top), see
        `_false_stops`; ``by_basis``: trials stopped and time saved (in the unit of the cost) by the basis of the
        rule's level, ``none`` for rules without a bound; ``patience``: trials that it ``ended``, completed, and the
        time ``saved`` (in the unit of the cost), None where the spec sets none; ``tied``: trials that were not flagged
        because they differ from the top by no more than noise; ``divergence_check``: whether it was ``on``, how many
        trials it ``ended``, and why it ``stood_down`` (``{trial_id, step, reason}``, None where it did not).
    """
    stopped = [t for t in trials if t["status"] == "stopped"]
    by_rule = Counter(str((t["stop"] or {}).get("rule") or "not recorded") for t in stopped)
    by_rung = Counter(_rung_label((t["stop"] or {}).get("rung")) for t in stopped)
    by_a_rule = sum((t["stop"] or {}).get("rule") not in NOT_BY_RULES for t in stopped)
    audits, false_stops = _error_rates(sweep, trials, by_a_rule)
    return {
        "stopped": len(stopped),
        "by_rule": dict(by_rule),
        "by_rung": dict(sorted(by_rung.items(), key=lambda item: (len(item[0]), item[0]))),
        "paused": sum(t["status"] == "paused" for t in trials),
        "resumed": sum(_was_resumed(sweep.trials[t["trial_id"]]) for t in trials),
        "audits": audits,
        "false_stops": false_stops,
        "by_basis": _by_basis(sweep, trials),
        "patience": _patience(sweep, trials),
        "tied": sum(_tied(sweep.trials[t["trial_id"]]) for t in trials),
        "divergence_check": _divergence_check(sweep),
    }


def _patience(sweep: SweepState, trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    limit = (sweep.spec.get("early_stop") or {}).get("patience")
    if limit is None:
        return None
    ended = [t for t in trials if sweep.trials[t["trial_id"]].ended_early_at is not None]
    saved = [
        remaining_seconds(sweep.trials[t["trial_id"]], rungs_of(sweep)) * (t["gpus"] or 1.0) for t in ended
    ]
    return {"evaluations": limit, "ended": len(ended), "saved": sum(saved)}


def _divergence_check(sweep: SweepState) -> dict[str, Any]:
    checked = [d for t in sweep.search_trials for d in t.decisions if d.get("rule") == DIVERGENCE_CHECK]
    stood_down = [d for d in checked if d["action"] == "continue"]
    stood_down.sort(key=lambda d: int(d["seq"]))
    return {
        "on": bool((sweep.spec.get("early_stop") or {}).get("divergence_check", True)),
        "ended": sum(d["action"] == "divergence_check" for d in checked),
        "stood_down": {k: stood_down[0].get(k) for k in ("trial_id", "step", "reason")}
        if stood_down
        else None,
    }


def _error_rates(
    sweep: SweepState, trials: list[dict[str, Any]], stopped: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``audits`` and ``false_stops``.

    ``audits`` has ``top_fraction`` and ``limit`` (the accepted rate) from the spec, ``audited`` (flagged trials that
    trained on), ``completed`` and ``top`` (of these), ``prior_sweeps`` (``sweeps, audited, top``, counted in the
    rate), ``rate`` ``{value, low, high}`` with the exact 95% interval or None, and ``status``: ``certified``,
    ``refuted`` or ``uncertified``, as the scheduler has it.
    """
    audited = [t for t in trials if t["audited"]]
    ended = sorted((t for t in trials if t["rank"] is not None), key=lambda t: _end_row(sweep, t))
    top_fraction, limit = _setting(sweep, "top_fraction"), _setting(sweep, "max_false_discovery_rate")
    rate = _audit_rate(sweep, stopped, len(audited))
    weights = [audit_weight(_audit_outcome(sweep, t), rate) for t in ended]
    values = {t["trial_id"]: -sweep.objective.cost(t["objective"]) for t in ended}
    edge = top_edge(list(values.values()), weights, top_fraction)
    own = [values[t["trial_id"]] >= edge for t in ended if t["audited"]]
    kept = sum(values[t["trial_id"]] >= edge and _audit_outcome(sweep, t) is None for t in ended)
    prior = PriorSweeps.from_dict(sweep.header.get("prior_sweeps") or {})
    result = audit_result([*prior.outcomes, *own], limit)
    interval = {"value": result.rate, "low": result.interval[0], "high": result.interval[1]}
    audits = {
        "top_fraction": top_fraction,
        "limit": limit,
        "audited": len(audited),
        "completed": len(own),
        "top": sum(own),
        "prior_sweeps": {
            "sweeps": len(prior.audits),
            "audited": len(prior.outcomes),
            "top": sum(prior.outcomes),
        },
        "rate": interval if result.audited else None,
        "status": result.status,
    }
    return audits, _false_stops(sweep, trials, kept, result)


def _false_stops(
    sweep: SweepState, trials: list[dict[str, Any]], kept: int, result: AuditResult
) -> dict[str, Any]:
    """P(flagged | top): the share of this sweep's top trials that the rule flagged.

    Args:
        kept: Top trials that were never flagged.
        result: The audits, with the share of flagged trials that are top trials.
    Returns:
        ``flagged`` and ``kept`` (trials); ``limit``, the bound that the spec asks for (None where its rule has none);
        ``status``: ``certified`` where every level that flagged a trial was bounded (by prior sweeps or by conformal
        ranks), else ``uncertified``; ``rate``: ``{value, low, high}``, q c / (q c + kept) for c flagged trials of
        which the share q are top trials. Its 95% interval is that of q carried over, with the edge of the top
        fraction treated as known. None without audits.
    """
    decisions = [d for t in trials if (d := _flagged_by(sweep.trials[t["trial_id"]])) is not None]
    flagged = len(decisions)
    bounded = flagged > 0 and all(_basis(d) in _BOUNDED for d in decisions)

    def share(q: float) -> float:
        return q * flagged / (q * flagged + kept) if q * flagged > 0 else 0.0

    rate = None
    if flagged and result.rate is not None:
        low, high = result.interval
        rate = {"value": share(result.rate), "low": share(low), "high": share(high)}
    return {
        "flagged": flagged,
        "kept": kept,
        "limit": _setting(sweep, "max_false_stop_rate") if _rule(sweep) == "calibrated" else None,
        "status": "certified" if bounded else "uncertified",
        "rate": rate,
    }


def _by_basis(sweep: SweepState, trials: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for t in trials:
        decision = sweep.trials[t["trial_id"]].stopped_by
        if decision is None or (t["status"] != "stopped" and not t["saved_seconds"]):
            continue
        row = found.setdefault(_basis(decision), {"stopped": 0, "saved": 0.0})
        row["stopped"] += 1
        row["saved"] += t["saved_seconds"] * (t["gpus"] or 1.0)
    return found


def _tied(trial: TrialState) -> bool:
    """Whether noise alone kept the rule from flagging the trial, to the end."""
    decided = [d.get("evidence") for d in trial.decisions if d.get("rung") is not None]
    return _flagged_by(trial) is None and any(isinstance(e, dict) and bool(e.get("tied")) for e in decided)


def _flagged_by(trial: TrialState) -> dict[str, Any] | None:
    """The rule's first decision against a trial; one that a user or a bound stopped was not flagged."""
    against = ("stop", "pause", "audit")
    return next(
        (d for d in trial.decisions if d.get("action") in against and d.get("rule") not in NOT_BY_RULES), None
    )


def _basis(decision: dict[str, Any]) -> str:
    """The basis of the level that flagged the trial, as the rule names it; ``user``, ``bounds``, or ``none``."""
    if decision.get("rule") in (BY_USER, BOUNDS):
        return str(decision["rule"])
    evidence = decision.get("evidence")
    named = evidence.get("basis") if isinstance(evidence, dict) else None
    return named if isinstance(named, str) else "none"


def _audit_outcome(sweep: SweepState, record: dict[str, Any]) -> bool | None:
    """None for a trial that was never flagged, else whether it was audited (rather than paused and resumed)."""
    if record["audited"]:
        return True
    return False if sweep.trials[record["trial_id"]].pauses else None


def _audit_rate(sweep: SweepState, stopped: int, audited: int) -> float:
    """The share of flagged trials that are audited: as the spec says, else as it turned out."""
    value = (sweep.spec.get("early_stop") or {}).get("audit")
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    rate = audit_rate(_rule(sweep), value if known else None)
    return rate if rate > 0 or not audited else audited / (stopped + audited)


def _was_resumed(trial: TrialState) -> bool:
    return any(d["action"] == "pause" and d["step"] < trial.step for d in trial.decisions)


def _end_row(sweep: SweepState, record: dict[str, Any]) -> int:
    return int((sweep.trials[record["trial_id"]].end or {}).get("seq") or 0)


def _rule(sweep: SweepState) -> str:
    return str((sweep.spec.get("early_stop") or {}).get("rule"))


def _setting(sweep: SweepState, key: str) -> float:
    value = (sweep.spec.get("early_stop") or {}).get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    return _DEFAULTS[key]


def _rung_label(rung: Any) -> str:
    return f"{rung:.0%}" if isinstance(rung, int | float) and math.isfinite(rung) else "between rungs"
