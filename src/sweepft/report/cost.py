"""Where the time of the slots went, and what stopping saved.

One idea: everything is counted in the unit that is scarce - GPU-seconds where trials hold GPUs,
    slot-seconds on a CPU - and set against slots x wall time, so that what is not accounted for shows.
"""
# MERGED What trials on one GPU did to each other's speed, seen in the sweep itself.

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweepft.ledger import SweepState, TrialState

_ALONE, _FULL = 0.05, 0.1


_FEWEST_STEPS = 3


@dataclass(frozen=True)
class _Stretch:
    """Steps between two results: when they ran (Unix seconds), how many, and their target tokens."""

    begin: float
    end: float
    steps: int
    tokens: float


def sharing_summary(view: SweepState) -> dict[str, Any] | None:
    """Speed of trials that shared GPUs; None where each had GPUs of its own, or none.

    Returns:
        ``trials_per_gpu``; ``kept``: share of its speed alone that a trial kept beside a full GPU of others, the median
        over ``trials``; ``gain``: ``trials_per_gpu`` times that, None (as ``kept``) where no trial was seen both ways,
        or where slots were spread over several GPUs and who shared with whom is not known; ``text``: a sentence.
    """
    resources = view.spec.get("resources") or {}
    each, slots = float(resources.get("gpus_per_worker") or 0), int(resources.get("concurrent_trials") or 1)
    if not 0 < each < 1:
        return None
    most = min(int(1 / each + 1e-9), slots)
    kept = _kept(view, most) if each * slots <= 1 + 1e-9 and most > 1 else []
    share = float(np.median(kept)) if kept else None
    found = {
        "trials_per_gpu": most,
        "kept": share,
        "gain": None if share is None else most * share,
        "trials": len(kept),
    }
    return found | {"text": _text(found)}


def _kept(view: SweepState, most: int) -> list[float]:
    stretches = {name: _stretches(trial) for name, trial in view.trials.items()}
    found = []
    for name, mine in stretches.items():
        others = [s for other, theirs in stretches.items() if other != name for s in theirs]
        beside = [(s, _at_work(s, others)) for s in mine]
        alone = _speed([s for s, n in beside if n < _ALONE])
        shared = _speed([s for s, n in beside if n > most - 1 - _FULL])
        if alone and shared:
            found.append(shared / alone)
    return found


def _text(found: dict[str, Any]) -> str:
    told = f"{found['trials_per_gpu']} trials a GPU"
    if found["gain"] is None:
        return f"{told}; what that won was not seen in this sweep (benchmarks/shared_gpu.py measures it)"
    return (
        f"{told}; beside others a trial kept {found['kept']:.0%} of its speed alone (median of {found['trials']}), "
        f"so the GPU did {found['gain']:.2f} times the work"
    )


def _stretches(trial: TrialState) -> list[_Stretch]:
    history, evaluated = trial.history, {e["step"]: float(e.get("seconds") or 0) for e in trial.evals}
    found, first = [], 0
    for report in trial.reports:
        last = int(np.searchsorted(history["step"], report.step, side="right"))
        seconds = float(np.nansum(history["seconds"][first:last]))
        if last > first and seconds > 0:
            before = history["tokens_seen"][first - 1] if first else 0.0
            end = report.time - evaluated.get(report.step, 0.0)
            tokens = float(history["tokens_seen"][last - 1] - before)
            found.append(_Stretch(end - seconds, end, last - first, tokens))
        first = last
    return found


def _at_work(mine: _Stretch, others: list[_Stretch]) -> float:
    """Other trials at work at the same time, on average."""
    overlap = sum(max(0.0, min(mine.end, o.end) - max(mine.begin, o.begin)) for o in others)
    return overlap / (mine.end - mine.begin)


def _speed(stretches: list[_Stretch]) -> float | None:
    """Target tokens a second; None of too few steps."""
    if sum(s.steps for s in stretches) < _FEWEST_STEPS:
        return None
    return sum(s.tokens for s in stretches) / sum(s.end - s.begin for s in stretches)


def price_of(view: SweepState) -> float | None:
    """The price per GPU-hour (per slot-hour on a CPU) that the spec states, if it states one."""
    stated = (view.spec.get("resources") or {}).get("price_per_gpu_hour")
    if isinstance(stated, int | float) and not isinstance(stated, bool) and math.isfinite(stated):
        return float(stated)
    return None


def cost_summary(
    view: SweepState, trials: list[dict[str, Any]], price: float | None = None
) -> dict[str, Any]:
    """Cost and savings of a sweep.

    Args:
        view: The sweep.
        trials: Its `trial_record`s.
        price: Of a GPU-hour (of a slot-hour on a CPU), in any currency; None takes that of the spec.
    Returns:
        ``unit`` (``gpu_seconds`` or ``slot_seconds``), ``by_phase``, ``used``, ``slots`` (at once),
        ``wall_seconds``, ``capacity`` (slots x wall, summed over resumes), ``unaccounted``, ``saved``,
        ``saved_share`` (of what a run without stops would have taken), ``audit`` (spent on trials after they were
        condemned: already not in ``saved``), ``lost_to_faults`` (training again what a fault took too), ``price``
        (see `price_summary`), ``tokens_per_second`` (target tokens in a second of training, per GPU where
        trials hold GPUs, else per slot; None without steps), ``sharing`` (see `sharing_summary`).
    """
    price = price_of(view) if price is None else price
    gpus = max((t["gpus"] for t in trials), default=0.0)
    unit = "gpu_seconds" if gpus > 0 else "slot_seconds"

    def weigh(t: dict[str, Any]) -> float:
        return float(t["gpus"]) if gpus > 0 else 1.0

    by_phase: dict[str, float] = {}
    if view.phases:
        by_phase = dict(view.gpu_phases if gpus > 0 else view.phases)
    else:
        for t in trials:
            for phase, seconds in (t["seconds_by_phase"] or {"train": t["seconds"]}).items():
                by_phase[phase] = by_phase.get(phase, 0.0) + seconds * weigh(t)
    used = sum(t["seconds"] * weigh(t) for t in trials)
    saved = sum(t["saved_seconds"] * weigh(t) for t in trials)
    wall = sum(last - first for first, last in view.sessions)
    slots = [_slots(view, named) for named in view.slots]
    by_session = zip(slots, view.sessions, strict=True)
    capacity = sum(n * (last - first) for n, (first, last) in by_session) * (gpus if gpus > 0 else 1.0)
    return {
        "unit": unit,
        "by_phase": {k: by_phase[k] for k in sorted(by_phase, key=_place)},
        "used": used,
        "slots": max(slots, default=0),
        "wall_seconds": wall,
        "capacity": capacity,
        "unaccounted": max(0.0, capacity - sum(by_phase.values())),
        "saved": saved,
        "saved_share": saved / (used + saved) if used + saved > 0 else 0.0,
        "audit": sum(audit_seconds(view, t) * weigh(t) for t in trials),
        "lost_to_faults": by_phase.get("lost", 0.0) if view.phases else _told_lost(view, gpus),
        "price": price_summary(price, capacity, used, saved),
        "tokens_per_second": _tokens_per_second(trials, by_phase),
        "sharing": sharing_summary(view),
    }


def price_summary(
    per_hour: float | None, capacity: float, used: float, saved: float
) -> dict[str, float] | None:
    """What that is in money, at a price per GPU-hour (per slot-hour on a CPU); None without a price.

    Args:
        per_hour: Price, in any currency.
        capacity, used, saved: GPU-seconds (slot-seconds).
    """
    if per_hour is None:
        return None
    shares = {"paid": capacity, "trials": used, "saved": saved}
    return {"per_hour": per_hour, **{name: seconds / 3600 * per_hour for name, seconds in shares.items()}}


def _tokens_per_second(trials: list[dict[str, Any]], by_phase: dict[str, float]) -> float | None:
    """Steps whose result was lost took time too: it is in the phase `lost`, and not here."""
    seconds = by_phase.get("train", 0.0) + by_phase.get("data", 0.0)
    return sum(t["tokens_seen"] for t in trials) / seconds if seconds > 0 else None


def _place(phase: str) -> tuple[int, str]:
    """What trained comes first, what did not last; phases of a later version stand between by their names."""
    first, last = ("train", "evaluate"), ("startup", "idle", "lost", "other")
    return (
        (first.index(phase), "")
        if phase in first
        else (3 + last.index(phase), "")
        if phase in last
        else (2, phase)
    )


def _told_lost(view: SweepState, gpus: float) -> float:
    return sum(float(f.get("lost_seconds") or 0.0) for f in view.faults) * (gpus if gpus > 0 else 1.0)


def _slots(view: SweepState, named: set[int | str]) -> int:
    """Slots at work at once in one run of the driver; a slot whose coordinator was replaced counts once."""
    seen = named or {a.slot for trial in view.trials.values() for a in trial.attempts}
    at_once = (view.spec.get("resources") or {}).get("concurrent_trials")
    return len(seen) if at_once is None else min(len(seen), int(at_once))


def audit_seconds(view: SweepState, record: dict[str, Any]) -> float:
    """Slot-seconds of steps a condemned trial took because it was audited."""
    if not record["audited"]:
        return 0.0
    trial = view.trials[record["trial_id"]]
    first = next(v for v in trial.decisions if v.get("action") == "audit")
    later = trial.history["step"] > first["step"]
    seconds = trial.history["seconds"][later]
    return float(np.nansum(seconds))
