"""One record a trial, which every table, file and chart of the report is made from.

Only a trial that reached the full budget has an objective. The last partial value of a stopped trial is in
``last_eval``, with its rung.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from sweepft.ledger import SweepState, TrialState, without_residuals
from sweepft.report.best_of import best_evaluation
from sweepft.spec.sweep import HALF_LIFE, get_dotted

_BETA2: Final = "optimizer.beta2"


def swept_keys(sweep: SweepState) -> list[str]:
    """Swept keys, in the order of the spec's search space, then any others that trials have."""
    space = ((sweep.spec.get("search") or {}).get("space")) or {}
    found = (
        [k for k in space if any(k in t.params for t in sweep.trials.values())]
        if sweep.trials
        else list(space)
    )
    for trial in sweep.trials.values():
        found += [k for k in trial.params if k not in found]
    return found


def derived_keys(sweep: SweepState) -> dict[str, str]:
    """What is shown beside the swept keys: fields tied to another one, a learning rate at its ``at_batch``, and the
    decay rate that follows from a half-life; the field by its name in the report.
    """
    search = sweep.spec.get("search") or {}
    found = {key: key for key in search.get("tied") or {}}
    for key, dimension in (search.get("space") or {}).items():
        if isinstance(dimension, dict) and dimension.get("at_batch"):
            found[f"{key} at batch {dimension['at_batch']}"] = key
    if HALF_LIFE in (search.get("space") or {}) or get_dotted(sweep.spec.get("train") or {}, HALF_LIFE):
        found[_BETA2] = "optimizer.betas"
    return found


def derived_values(sweep: SweepState, trial: TrialState) -> dict[str, Any]:
    """Values of `derived_keys` in a trial, as far as its row has them."""
    tied = (sweep.spec.get("search") or {}).get("tied") or {}
    values = {}
    for name, key in derived_keys(sweep).items():
        in_config = key in tied or name == _BETA2
        value = get_dotted(trial.train_config, key) if in_config else trial.coordinates.get(key)
        if name == _BETA2:
            value = value[1] if isinstance(value, list) and len(value) == 2 else None
        if value is not None:
            values[name] = value
    return values


def rungs_of(sweep: SweepState) -> list[float]:
    """The rungs, at which trials may be stopped, as fractions of the budget below 1."""
    given = (sweep.spec.get("early_stop") or {}).get("rungs")
    if not isinstance(given, list):
        given = {e["rung"] for t in sweep.trials.values() for e in t.evals if e.get("rung")}
    return sorted({float(w) for w in given if isinstance(w, int | float) and 0 < w < 1})


def objective_stderr(sweep: SweepState, sets: dict[str, Any]) -> float | None:
    """Standard error of the objective, from those of the validation sets and their weights in the spec.

    The sets are treated as independent: sqrt(sum (w s)^2) / sum w. None where a required one is unknown.
    """
    return _weighted_error(sweep, {name: _number(found.get("stderr")) for name, found in sets.items()})


def bits_per_byte(sweep: SweepState, sets: dict[str, Any]) -> dict[str, float] | None:
    """Losses as bits per byte of the text of the target tokens, by validation set, and ``objective``, their weighted
    mean. None where the ledger has no sizes of texts, or a set that counts is missing.

    Args:
        sweep: The sweep.
        sets: Of a trial's last `eval` row.
    """
    declared = (sweep.header.get("data") or {}).get("validation") or []
    found, total, weights = dict[str, float](), 0.0, 0.0
    for entry in declared if isinstance(declared, list) else ():
        name, size = entry.get("name"), entry.get("text_bytes")
        loss, tokens = (_number((sets.get(name) or {}).get(key)) for key in ("loss", "tokens"))
        value = loss * tokens / (size * math.log(2)) if size else math.nan
        weight = float(entry.get("weight", 1.0) or 0.0)
        if weight > 0:
            total, weights = total + weight * value, weights + weight
        if math.isfinite(value):
            found[name] = value
    if not weights or not math.isfinite(total):
        return None
    return {"objective": total / weights, **found}


def paired_stderr(sweep: SweepState, first: TrialState, second: TrialState) -> float | None:
    """Standard error of the difference of two completed trials' objectives, which were evaluated on the same samples,
    or on the same items of a task.

    For each set, over n groups of samples with residuals r: sqrt(n / (n - 1) sum (r1 - r2)^2) / tokens. None where
    residuals were not recorded, or are of another set.
    """
    counted = [(t.counted if t.status == "completed" else None) or {} for t in (first, second)]
    if sweep.objective.task is not None:
        error = _paired_error([row.get("task") or {} for row in counted], "items")
        return error if math.isfinite(error) else None
    sets = [row.get("sets") or {} for row in counted]
    errors = {name: _paired_error([s.get(name) or {} for s in sets], "tokens") for name in sets[0] | sets[1]}
    return _weighted_error(sweep, errors)


def _paired_error(pair: Sequence[dict[str, Any]], size: str) -> float:
    """Standard error of the difference of two means, from the residuals of both; NaN where they do not pair."""
    one, other = pair
    residuals = [np.asarray(s.get("residuals") or [math.nan], dtype=np.float64) for s in (one, other)]
    n, count = len(residuals[0]), one.get(size) or 0
    if n != len(residuals[1]) or n < 2 or not count or count != other.get(size):
        return math.nan
    return math.sqrt(n / (n - 1) * float(np.square(residuals[0] - residuals[1]).sum())) / count


def _weighted_error(sweep: SweepState, errors: dict[str, float]) -> float | None:
    declared = (sweep.spec.get("data") or {}).get("validation") or []
    weights = {d.get("name"): d.get("weight", 1.0) for d in declared if isinstance(d, dict)}
    used = {name: float(weights.get(name, 1.0 if len(errors) == 1 else 0.0) or 0.0) for name in errors}
    total = sum(used.values())
    if total <= 0:
        return None
    value = math.sqrt(sum((w * errors[name]) ** 2 for name, w in used.items() if w > 0)) / total
    return value if math.isfinite(value) else None


def trial_seconds(trial: TrialState) -> float:
    """Slot-seconds of a trial: by its `cost` rows, else by the phases it reported, else by its steps and
    evaluations.
    """
    for phases in (trial.costs, trial.phase_seconds):
        if phases:
            return float(sum(phases.values()))
    return float(np.nansum(trial.history["seconds"])) + sum(_finite(e.get("seconds")) for e in trial.evals)


def saved_seconds(sweep: SweepState, trial: TrialState, rungs: Iterable[float]) -> float:
    """Slot-seconds that stopping this trial saved, at its own measured speed.

    Its remaining steps times its median step time, plus its remaining evaluations times their mean time. A paused
    trial can be resumed, so it counts only once the sweep is over. One that its patience has ended is not counted here.
    """
    if trial.status != "stopped" and not (trial.status == "paused" and sweep.finish is not None):
        return 0.0
    return remaining_seconds(trial, rungs)


def remaining_seconds(trial: TrialState, rungs: Iterable[float]) -> float:
    """Slot-seconds that a trial would have taken from where it is to the full budget, at its own measured speed."""
    seconds = trial.history["seconds"]
    seconds = seconds[np.isfinite(seconds)]
    per_step = float(np.median(seconds)) if len(seconds) else 0.0
    saved = max(0, trial.planned_steps - trial.step) * per_step
    evaluations = [_finite(e.get("seconds")) for e in trial.evals]
    if evaluations:
        last = max(_finite(e.get("rung")) for e in trial.evals)
        saved += (1 + sum(w > last for w in rungs)) * sum(evaluations) / len(evaluations)
    return saved


def trial_record(
    sweep: SweepState, trial: TrialState, rank: int | None, rungs: list[float]
) -> dict[str, Any]:
    """A trial's record; docs/reference/report.md has every key."""
    done = trial.status == "completed"
    last = trial.evals[-1] if trial.evals else None
    counted = (trial.counted if done else None) or {}
    sets, task = counted.get("sets") or {}, counted.get("task") or {}
    stderr = task.get("stderr") if sweep.objective.task else objective_stderr(sweep, sets) if sets else None
    stop = trial.stopped_by or next(
        (d for d in reversed(trial.decisions) if d.get("action") == "divergence_check"), None
    )
    gpus = gpus_of(sweep, trial)
    seconds = trial_seconds(trial)
    return {
        "trial_id": trial.trial_id,
        "number": trial.number,
        "rank": rank,
        "status": trial.status,
        "origin": trial.origin,
        "replicate_of": trial.replicate_of,
        "params": trial.params,
        "derived": derived_values(sweep, trial),
        "objective": trial.objective,
        "objective_stderr": stderr,
        "validation": without_residuals(sets),
        "tasks": _tasks(counted),
        "bits_per_byte": None if sweep.objective.task else bits_per_byte(sweep, sets),
        "violation": sweep.violation(trial) if rank is not None and sweep.bounds.limits else None,
        "best": best_evaluation(sweep, trial),
        "last_eval": None
        if last is None
        else {k: last.get(k) for k in ("rung", "step", "samples_seen", "objective")},
        "progress": trial.progress,
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
        "saved_seconds": saved_seconds(sweep, trial, rungs),
        "audited": trial.audited,
        "attempts": len(trial.attempts),
        "slots": list(dict.fromkeys(a.slot for a in trial.attempts)),
        "faults": len(trial.faults),
        "data_order": trial.data_order,
    }


def _tasks(counted: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Value, direction, standard error and items of each further task that was measured where the trial's value is
    from.
    """
    shown = ("value", "stderr", "items", "higher_is_better")
    return {name: {key: one.get(key) for key in shown} for name, one in (counted.get("tasks") or {}).items()}


def gpus_of(sweep: SweepState, trial: TrialState) -> float:
    """GPUs the trial held: from its cost rows, else from the spec; 0 on a CPU."""
    wall = sum(trial.costs.values())
    if wall > 0:
        return sum(trial.gpu_costs.values()) / wall
    resources = sweep.spec.get("resources") or {}
    return _finite(resources.get("workers_per_trial", 1)) * _finite(resources.get("gpus_per_worker", 0))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _finite(value: Any) -> float:
    number = _number(value)
    return number if math.isfinite(number) else 0.0
