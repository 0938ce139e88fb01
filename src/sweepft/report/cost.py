"""Where the time of the slots went, what early stopping saved, and how fast trials ran that shared a GPU.

Everything is counted in the scarce unit (GPU-seconds where trials hold GPUs, slot-seconds on a CPU) and compared with
slots x wall time, so that unaccounted time shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sweepft.ledger import SweepState, TrialState

# With n trials a GPU, a trial ran alone beside less than _ALONE others on average, and fully shared beside
# more than n - 1 - _FULL.
_ALONE: Final = 0.05
_FULL: Final = 0.1
_MIN_STEPS: Final = 3
# Phases are listed in this order, those that are not named here between `evaluate` and `startup`.
_FIRST_PHASES: Final = ("train", "evaluate")
_LAST_PHASES: Final = ("startup", "idle", "lost", "other")


def cost_summary(
    sweep: SweepState, trials: list[dict[str, Any]], price: float | None = None
) -> dict[str, Any]:
    """Cost and savings of a sweep.

    Args:
        sweep: The sweep.
        trials: Its `trial_record`s.
        price: Of a GPU-hour (a slot-hour on a CPU), in any currency; None takes the spec's.
    Returns:
        ``unit`` (``gpu_seconds`` or ``slot_seconds``), ``by_phase``, ``used``, ``slots`` (at once),
        ``wall_seconds``, ``capacity`` (slots x wall, summed over resumes), ``unaccounted``, ``saved``,
        ``saved_share`` (of the time that the sweep would have taken without stops), ``audit`` (spent on trials after
        they were flagged; never part of ``saved``), ``lost_to_faults`` (including training steps again), ``price``
        (see `price_summary`), ``tokens_per_second`` (target tokens in a second of training, per GPU where trials hold
        GPUs, else per slot; None without steps), ``sharing`` (see `sharing_summary`).
    """
    price = price_of(sweep) if price is None else price
    gpus = max((t["gpus"] for t in trials), default=0.0)

    def weigh(t: dict[str, Any]) -> float:
        return float(t["gpus"]) if gpus > 0 else 1.0

    by_phase: dict[str, float] = {}
    if sweep.phases:
        by_phase = dict(sweep.gpu_phases if gpus > 0 else sweep.phases)
    else:
        for t in trials:
            for phase, seconds in (t["seconds_by_phase"] or {"train": t["seconds"]}).items():
                by_phase[phase] = by_phase.get(phase, 0.0) + seconds * weigh(t)
    used = sum(t["seconds"] * weigh(t) for t in trials)
    saved = sum(t["saved_seconds"] * weigh(t) for t in trials)
    wall = sum(last - first for first, last in sweep.sessions)
    slots = [_slots(sweep, named) for named in sweep.slots]
    by_session = zip(slots, sweep.sessions, strict=True)
    capacity = sum(n * (last - first) for n, (first, last) in by_session) * (gpus if gpus > 0 else 1.0)
    return {
        "unit": "gpu_seconds" if gpus > 0 else "slot_seconds",
        "by_phase": {k: by_phase[k] for k in sorted(by_phase, key=_phase_order)},
        "used": used,
        "slots": max(slots, default=0),
        "wall_seconds": wall,
        "capacity": capacity,
        "unaccounted": max(0.0, capacity - sum(by_phase.values())),
        "saved": saved,
        "saved_share": saved / (used + saved) if used + saved > 0 else 0.0,
        "audit": sum(audit_seconds(sweep, t) * weigh(t) for t in trials),
        "lost_to_faults": by_phase.get("lost", 0.0) if sweep.phases else _reported_lost(sweep, gpus),
        "price": price_summary(price, capacity, used, saved),
        "tokens_per_second": _tokens_per_second(trials, by_phase),
        "sharing": sharing_summary(sweep),
    }


def price_of(sweep: SweepState) -> float | None:
    """The price per GPU-hour (per slot-hour on a CPU) in the spec, or None."""
    price = (sweep.spec.get("resources") or {}).get("price_per_gpu_hour")
    if isinstance(price, int | float) and not isinstance(price, bool) and math.isfinite(price):
        return float(price)
    return None


def price_summary(
    per_hour: float | None, capacity: float, used: float, saved: float
) -> dict[str, float] | None:
    """Money at a price per GPU-hour (slot-hour), from GPU-seconds (slot-seconds); None without a price."""
    if per_hour is None:
        return None
    shares = {"paid": capacity, "trials": used, "saved": saved}
    return {"per_hour": per_hour, **{name: seconds / 3600 * per_hour for name, seconds in shares.items()}}


def audit_seconds(sweep: SweepState, record: dict[str, Any]) -> float:
    """Slot-seconds of the steps that a flagged trial took because it was audited."""
    if not record["audited"]:
        return 0.0
    trial = sweep.trials[record["trial_id"]]
    first = next(d for d in trial.decisions if d.get("action") == "audit")
    later = trial.history["step"] > first["step"]
    return float(np.nansum(trial.history["seconds"][later]))


def _tokens_per_second(trials: list[dict[str, Any]], by_phase: dict[str, float]) -> float | None:
    # Steps with a lost result took time too, but that is in the phase `lost`.
    seconds = by_phase.get("train", 0.0) + by_phase.get("data", 0.0)
    return sum(t["tokens_seen"] for t in trials) / seconds if seconds > 0 else None


def _phase_order(phase: str) -> tuple[int, str]:
    if phase in _FIRST_PHASES:
        return _FIRST_PHASES.index(phase), ""
    return (3 + _LAST_PHASES.index(phase), "") if phase in _LAST_PHASES else (2, phase)


def _reported_lost(sweep: SweepState, gpus: float) -> float:
    return sum(float(f.get("lost_seconds") or 0.0) for f in sweep.faults) * (gpus if gpus > 0 else 1.0)


def _slots(sweep: SweepState, named: set[int | str]) -> int:
    """Slots in use at once in one session; a slot with a replaced coordinator counts once."""
    seen = named or {a.slot for trial in sweep.trials.values() for a in trial.attempts}
    at_once = (sweep.spec.get("resources") or {}).get("concurrent_trials")
    return len(seen) if at_once is None else min(len(seen), int(at_once))


# --- GPU sharing --------------------------------------------------------------------------------------


def sharing_summary(sweep: SweepState) -> dict[str, Any] | None:
    """Speed of trials that shared GPUs; None where each had its own GPUs, or none.

    Returns:
        ``trials_per_gpu``; ``relative_speed``: of a trial on a fully shared GPU, relative to the same trial alone, the
        median over ``trials``; ``throughput_gain``: ``trials_per_gpu`` times that. Both are None where no trial was
        seen both ways, or where slots were spread over several GPUs, so that it is not known which trials shared one.
        ``text``: a sentence.
    """
    resources = sweep.spec.get("resources") or {}
    each, slots = float(resources.get("gpus_per_worker") or 0), int(resources.get("concurrent_trials") or 1)
    if not 0 < each < 1:
        return None
    per_gpu = min(int(1 / each + 1e-9), slots)
    speeds = _relative_speeds(sweep, per_gpu) if each * slots <= 1 + 1e-9 and per_gpu > 1 else []
    median = float(np.median(speeds)) if speeds else None
    gain = None if median is None else per_gpu * median
    text = f"{per_gpu} trials a GPU"
    if gain is None:
        text += "; the gain was not measured in this sweep (benchmarks/shared_gpu.py measures it)"
    else:
        text += (
            f"; a trial on a shared GPU kept {median:.0%} of its speed alone (median of {len(speeds)}), "
            f"so the GPU did {gain:.2f} times the work"
        )
    return {
        "trials_per_gpu": per_gpu,
        "relative_speed": median,
        "throughput_gain": gain,
        "trials": len(speeds),
        "text": text,
    }


@dataclass(frozen=True)
class _Segment:
    """Steps between two results: when they ran (Unix seconds), how many, and their target tokens."""

    begin: float
    end: float
    steps: int
    tokens: float


def _relative_speeds(sweep: SweepState, per_gpu: int) -> list[float]:
    segments = {name: _segments(trial) for name, trial in sweep.trials.items()}
    found = []
    for name, own in segments.items():
        others = [s for other, theirs in segments.items() if other != name for s in theirs]
        beside = [(s, _trials_beside(s, others)) for s in own]
        alone = _speed([s for s, n in beside if n < _ALONE])
        shared = _speed([s for s, n in beside if n > per_gpu - 1 - _FULL])
        if alone and shared:
            found.append(shared / alone)
    return found


def _segments(trial: TrialState) -> list[_Segment]:
    history, evaluated = trial.history, {e["step"]: float(e.get("seconds") or 0) for e in trial.evals}
    found, first = [], 0
    for report in trial.reports:
        last = int(np.searchsorted(history["step"], report.step, side="right"))
        seconds = float(np.nansum(history["seconds"][first:last]))
        if last > first and seconds > 0:
            before = history["tokens_seen"][first - 1] if first else 0.0
            end = report.time - evaluated.get(report.step, 0.0)
            tokens = float(history["tokens_seen"][last - 1] - before)
            found.append(_Segment(end - seconds, end, last - first, tokens))
        first = last
    return found


def _trials_beside(segment: _Segment, others: list[_Segment]) -> float:
    """How many other trials trained at the same time, on average."""
    overlap = sum(max(0.0, min(segment.end, o.end) - max(segment.begin, o.begin)) for o in others)
    return overlap / (segment.end - segment.begin)


def _speed(segments: list[_Segment]) -> float | None:
    """Target tokens a second; None where there are too few steps."""
    if sum(s.steps for s in segments) < _MIN_STEPS:
        return None
    return sum(s.tokens for s in segments) / sum(s.end - s.begin for s in segments)
