"""One record a trial: what every table, file and chart of the report says about it.

One idea: only a trial that reached the full budget has an objective; how a stopped one stood is under
`last_eval`, with the window it was measured at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from sweepft.ledger import SweepState, TrialState, without_residuals


def swept_keys(view: SweepState) -> list[str]:
    """Swept keys: in the order of the spec's search space, then any others that trials have."""
    space = ((view.spec.get("search") or {}).get("space")) or {}
    found = (
        [k for k in space if any(k in t.params for t in view.trials.values())] if view.trials else list(space)
    )
    for trial in view.trials.values():
        found += [k for k in trial.params if k not in found]
    return found


def rungs_of(view: SweepState) -> list[float]:
    """The windows at which trials are judged, as fractions of the budget below 1."""
    given = (view.spec.get("early_stop") or {}).get("rungs")
    if not isinstance(given, list):
        given = {e["rung"] for t in view.trials.values() for e in t.evals if e.get("rung")}
    return sorted({float(w) for w in given if isinstance(w, int | float) and 0 < w < 1})


def objective_stderr(view: SweepState, sets: dict[str, Any]) -> float | None:
    """Standard error of the objective, from those of the held-out sets and their weights in the spec.

    The sets are taken as independent: sqrt(sum (w s)^2) / sum w. None where a needed one is not known.
    """
    return _weighted_error(view, {name: _number(found.get("stderr")) for name, found in sets.items()})


def paired_stderr(view: SweepState, first: TrialState, second: TrialState) -> float | None:
    """Standard error of the difference of two completed trials' objectives, which were taken on the same samples.

    Of each set, over groups of samples: sqrt(n / (n - 1) sum (r1 - r2)^2) / tokens, with the groups' residuals r. None
    where these are not recorded, or not of the same set.
    """
    sets = [
        (t.evals[-1].get("sets") or {}) if t.evals and t.evals[-1].get("final") else {}
        for t in (first, second)
    ]
    errors = {}
    for name in sets[0] | sets[1]:
        one, other = (s.get(name) or {} for s in sets)
        residuals = [np.asarray(s.get("residuals") or [math.nan], dtype=np.float64) for s in (one, other)]
        n, tokens = len(residuals[0]), one.get("tokens") or 0
        alike = n == len(residuals[1]) and n > 1 and tokens and tokens == other.get("tokens")
        square = float(np.square(residuals[0] - residuals[1]).sum()) if alike else math.nan
        errors[name] = math.sqrt(n / (n - 1) * square) / tokens if alike else math.nan
    return _weighted_error(view, errors)


def _weighted_error(view: SweepState, errors: dict[str, float]) -> float | None:
    declared = (view.spec.get("data") or {}).get("validation") or []
    weights = {d.get("name"): d.get("weight", 1.0) for d in declared if isinstance(d, dict)}
    used = {name: float(weights.get(name, 1.0 if len(errors) == 1 else 0.0) or 0.0) for name in errors}
    total = sum(used.values())
    if total <= 0:
        return None
    value = math.sqrt(sum((w * errors[name]) ** 2 for name, w in used.items() if w > 0)) / total
    return value if math.isfinite(value) else None


def trial_seconds(trial: TrialState) -> float:
    """Slot-seconds a trial took: its `cost` rows, else the phases it reported, else its steps and evaluations."""
    for phases in (trial.costs, trial.phase_seconds):
        if phases:
            return float(sum(phases.values()))
    return float(np.nansum(trial.history["seconds"])) + sum(_finite(e.get("seconds")) for e in trial.evals)


def saved_seconds(view: SweepState, trial: TrialState, rungs: Iterable[float]) -> float:
    """Slot-seconds that stopping this trial saved, at its own measured speed.

    Its remaining steps times its median step time, and its remaining evaluations times their mean time. A parked trial
    may come back while the sweep goes on: it has saved something only once that is over.
    """
    if trial.status != "stopped" and not (trial.status == "paused" and view.finish is not None):
        return 0.0
    seconds = trial.history["seconds"]
    seconds = seconds[np.isfinite(seconds)]
    per_step = float(np.median(seconds)) if len(seconds) else 0.0
    saved = max(0, trial.planned_steps - trial.step) * per_step
    evaluations = [_finite(e.get("seconds")) for e in trial.evals]
    if evaluations:
        last = max(_finite(e.get("rung")) for e in trial.evals)
        saved += (1 + sum(w > last for w in rungs)) * sum(evaluations) / len(evaluations)
    return saved


def trial_record(view: SweepState, trial: TrialState, rank: int | None, rungs: list[float]) -> dict[str, Any]:
    """All the report says about a trial, as plain data; see docs/reference/report.md."""
    done = trial.status == "completed"
    last = trial.evals[-1] if trial.evals else None
    final = last if done and last is not None and last.get("final") else None
    sets = (final or {}).get("sets") or {}
    stop = trial.stopped_by or next(
        (v for v in reversed(trial.decisions) if v.get("action") == "divergence_check"), None
    )
    gpus = gpus_of(view, trial)
    seconds = trial_seconds(trial)
    return {
        "trial_id": trial.trial_id,
        "number": trial.number,
        "rank": rank,
        "status": trial.status,
        "origin": trial.origin,
        "replicate_of": trial.replicate_of,
        "params": trial.params,
        "objective": trial.objective,
        "objective_stderr": objective_stderr(view, sets) if sets else None,
        "validation": without_residuals(sets),
        "last_eval": None
        if last is None
        else {k: last.get(k) for k in ("rung", "step", "samples_seen", "objective")},
        "reach": trial.progress,
        "step": trial.step,
        "planned_steps": trial.planned_steps,
        "warmup_steps": trial.warmup_steps,
        "samples_seen": trial.samples_seen,
        "tokens_seen": trial.tokens_seen,
        "stop": None
        if stop is None
        else {k: stop.get(k) for k in ("rung", "step", "samples_seen", "action", "rule", "reason", "p_top")},
        "reason": trial.reason,
        "seconds": seconds,
        "gpus": gpus,
        "seconds_by_phase": trial.costs or trial.phase_seconds,
        "saved_seconds": saved_seconds(view, trial, rungs),
        "audited": trial.audited,
        "attempts": len(trial.attempts),
        "slots": list(dict.fromkeys(a.slot for a in trial.attempts)),
        "faults": len(trial.faults),
        "data_order": trial.data_order,
    }


def gpus_of(view: SweepState, trial: TrialState) -> float:
    """GPUs the trial held: from its cost rows, else from the spec; 0 on a CPU."""
    wall = sum(trial.costs.values())
    if wall > 0:
        return sum(trial.gpu_costs.values()) / wall
    resources = view.spec.get("resources") or {}
    return _finite(resources.get("workers_per_trial", 1)) * _finite(resources.get("gpus_per_worker", 0))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _finite(value: Any) -> float:
    number = _number(value)
    return number if math.isfinite(number) else 0.0
