"""Several sweeps side by side: the best of each, what it cost, and where their specs differ.

One idea: losses are comparable only on the same held-out tokens. Where those differ the sweeps are still shown, and the
comparison says that it is none.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sweepft
from sweepft.ledger import SweepState, ranking
from sweepft.report.summary import finite, summarise
from sweepft.report.winner import difference_of

COMPARISON_SCHEMA_VERSION: Final = 1


def compare(runs: Sequence[tuple[str | Path, SweepState]], price: float | None = None) -> dict[str, Any]:
    """The comparison of sweeps as plain data; see docs/reference/report.md for every key.

    Args:
        runs: Run folder and sweep, in the order they shall be shown.
        price: Of a GPU-hour (of a slot-hour on a CPU); None takes that of each spec, if any.
    """
    views = [view for _, view in runs]
    names = Counter(view.name for view in views)
    folders = Counter(Path(folder).resolve().name for folder, _ in runs)
    sweeps = []
    for folder, view in runs:
        path = Path(folder).resolve()
        label = view.name if names[view.name] == 1 else path.name if folders[path.name] == 1 else str(path)
        sweeps.append(_sweep(label, path, view, summarise(view, price)))
    why_not = _why_not(views, sweeps)
    best = None if why_not else min(
        (s for s in sweeps if s["winner"]), key=lambda s: s["winner"]["objective"], default=None
    )  # fmt: skip
    for s in sweeps:
        known = best is not None and s["winner"] is not None and s is not best
        s["behind"] = difference_of(best["winner"], s["winner"]) if best is not None and known else None
    result: dict[str, Any] = finite(
        {
            "schema_version": COMPARISON_SCHEMA_VERSION,
            "sweepft_version": sweepft.__version__,
            "generated": round(time.time(), 3),
            "why_not": why_not,
            "best": None if best is None else best["label"],
            "headline": _headline(best, sweeps, why_not),
            "sweeps": sweeps,
            "differences": _differences(views),
        }
    )
    return result


def _sweep(label: str, path: Path, view: SweepState, summary: dict[str, Any]) -> dict[str, Any]:
    cost, stops = summary["cost"], summary["stops"]
    kept = ("unit", "used", "slots", "wall_seconds", "capacity", "saved", "saved_share", "price")
    return {
        "label": label,
        "folder": path.name,
        "name": view.name,
        "status": summary["status"],
        "budget_samples": view.budget_samples,
        "trials": len(summary["trials"]),
        "counts": summary["counts"],
        "winner": summary["answer"]["winner"],
        "cost": {k: cost[k] for k in kept},
        "stops": {"stopped": stops["stopped"], "audits": stops["audits"]},
        "course": _course(view, cost),
    }


def _course(view: SweepState, cost: dict[str, Any]) -> list[list[Any]]:
    """Rows ``[hours held, best objective, trial_id]``: hours of all slots (times their GPUs) up to each new best."""
    wall = cost["wall_seconds"]
    held = cost["capacity"] / wall / 3600 if wall > 0 else 0.0
    ended = [r.trial for r in ranking(view) if r.rank is not None and r.trial.ended is not None]
    best, rows = math.inf, []
    for trial in sorted(ended, key=lambda t: t.ended or 0.0):
        if trial.objective is not None and trial.objective < best:
            best = trial.objective
            rows.append([held * _elapsed(view, trial.ended or 0.0), best, trial.trial_id])
    if rows:
        rows.append([held * wall, best, rows[-1][2]])
    return rows


def _elapsed(view: SweepState, moment: float) -> float:
    """Seconds the driver had been running by then: the time between an end and a resume does not count."""
    return sum(min(max(moment - first, 0.0), last - first) for first, last in view.sessions)


def _why_not(views: Sequence[SweepState], sweeps: Sequence[dict[str, Any]]) -> list[str]:
    """Why the losses, or the costs, of these sweeps must not be compared."""
    reasons = []
    if len({_validation(view) for view in views}) > 1:
        reasons.append(
            "the held-out data or their tokens differ: losses of different sweeps cannot be compared"
        )
    if len({s["cost"]["unit"] for s in sweeps}) > 1:
        reasons.append("some sweeps ran on GPUs and some on CPUs: their hours are not the same thing")
    if any(view.simulated for view in views) and len({json.dumps(view.simulated) for view in views}) > 1:
        reasons.append("some sweeps are simulated, or their courses differ")
    return reasons


def _validation(view: SweepState) -> str:
    """What decides, down to its tokens: digests where the ledger has them, else what the spec names."""
    data = view.header.get("data") or {}
    sets = data.get("validation")
    if isinstance(sets, list) and all(isinstance(s, dict) and isinstance(s.get("data"), dict) for s in sets):
        decide = [[s.get("name"), s.get("weight"), s["data"].get("digest")] for s in sets if s.get("weight")]
        return json.dumps(decide)
    return json.dumps(
        [(view.spec.get("data") or {}).get("validation"), view.spec.get("model")], sort_keys=True, default=str
    )


def _differences(views: Sequence[SweepState]) -> list[dict[str, Any]]:
    """Rows ``{key, values}``: dotted keys of the resolved specs that are not the same everywhere."""
    flat = [_flat({k: v for k, v in view.spec.items() if k != "name"}) for view in views]
    keys = list(dict.fromkeys(key for spec in flat for key in spec))
    rows = [{"key": key, "values": [spec.get(key) for spec in flat]} for key in keys]
    return [r for r in rows if len({json.dumps(v, sort_keys=True, default=str) for v in r["values"]}) > 1]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        parts = (_flat(part, f"{key}.{name}" if key else str(name)) for name, part in value.items())
        return {k: v for part in parts for k, v in part.items()}
    return {key: value}


def _headline(best: dict[str, Any] | None, sweeps: Sequence[dict[str, Any]], why_not: list[str]) -> str:
    if why_not:
        return "These sweeps cannot be ranked: " + "; ".join(why_not) + "."
    if best is None:
        return "No trial of any sweep has completed the full budget yet."
    text = f"{best['label']} has the best trial, {best['winner']['trial_id']}"
    behind = [s["behind"] for s in sweeps if s["behind"]]
    if not behind:
        return text + ": nothing to compare it with."
    if all(d["clear"] for d in behind):
        return text + ", ahead by more than the held-out noise."
    if any(d["clear"] is False for d in behind):
        return text + ", but another sweep's best is within the held-out noise."
    return text + "."
