"""Several sweeps side by side: the best trial of each, what it cost, and where their specs differ.

Losses per token are comparable only on the same validation tokens. Where these differ but the text behind them is the
same, as with base models of different tokenizers, sweeps are ranked by bits per byte; else they are not ranked.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import sweepft
from sweepft.ledger import SweepState
from sweepft.report.summary import finite, summarise
from sweepft.report.winner import NOISE, difference_of
from sweepft.spec import flat

COMPARISON_SCHEMA_VERSION: Final = 2
Unit: TypeAlias = Literal["nats_per_token", "bits_per_byte", "score"]


def compare(runs: Sequence[tuple[str | Path, SweepState]], price: float | None = None) -> dict[str, Any]:
    """The comparison of sweeps as plain data; docs/reference/report.md has every key.

    Args:
        runs: Run folder and sweep, in the order in which they are shown.
        price: Of a GPU-hour (a slot-hour on a CPU); None takes each spec's, if it has one.
    """
    states = [sweep for _, sweep in runs]
    names = Counter(sweep.name for sweep in states)
    folders = Counter(Path(folder).resolve().name for folder, _ in runs)
    sweeps, summaries = [], []
    for folder, sweep in runs:
        path = Path(folder).resolve()
        label = sweep.name if names[sweep.name] == 1 else path.name if folders[path.name] == 1 else str(path)
        summaries.append(summarise(sweep, price))
        sweeps.append(_sweep(label, path, sweep, summaries[-1]))
    unit, not_comparable = _unit(states, sweeps)
    values = {s["label"]: _value(s["winner"], unit) for s in sweeps if s["winner"]}
    objective = states[0].objective  # that of all, where they are comparable
    best = None if not_comparable else min(
        (s for s in sweeps if s["label"] in values),
        key=lambda s: objective.cost(values[s["label"]]["objective"]),
        default=None,
    )  # fmt: skip
    for s, sweep, summary in zip(sweeps, states, summaries, strict=True):
        s["best_over_time"] = _best_over_time(sweep, summary["cost"], _candidates(summary, unit))
        known = best is not None and s["winner"] is not None and s is not best
        s["behind"] = (
            difference_of(values[best["label"]], values[s["label"]], objective=objective)
            if best is not None and known
            else None
        )
    result: dict[str, Any] = finite(
        {
            "schema_version": COMPARISON_SCHEMA_VERSION,
            "sweepft_version": sweepft.__version__,
            "generated": round(time.time(), 3),
            "not_comparable": not_comparable,
            "unit": unit,
            "best": None if best is None else best["label"],
            "headline": _headline(best, sweeps, not_comparable, unit),
            "sweeps": sweeps,
            "differences": _differences(states),
        }
    )
    return result


def _sweep(label: str, path: Path, sweep: SweepState, summary: dict[str, Any]) -> dict[str, Any]:
    cost, stops = summary["cost"], summary["stops"]
    kept = ("unit", "used", "slots", "wall_seconds", "capacity", "saved", "saved_share", "price")
    return {
        "label": label,
        "folder": path.name,
        "name": sweep.name,
        "status": summary["status"],
        "budget_samples": sweep.budget_samples,
        "trials": len(summary["trials"]),
        "counts": summary["counts"],
        "objective": summary["objective"],
        "winner": summary["result"]["winner"],
        "cost": {k: cost[k] for k in kept},
        "stops": {"stopped": stops["stopped"], "audits": stops["audits"]},
    }


def _best_over_time(sweep: SweepState, cost: dict[str, Any], values: dict[str, float]) -> list[list[Any]]:
    """Rows ``[hours held, best value, trial_id]``: hours of all slots (times their GPUs) until each new best.

    Args:
        sweep: The sweep.
        cost: Of its report.
        values: By trial, of those that can be its best.
    """
    wall = cost["wall_seconds"]
    held = cost["capacity"] / wall / 3600 if wall > 0 else 0.0
    ended = [t for t in map(sweep.trials.__getitem__, values) if t.ended is not None]
    best, rows = math.nan, []
    for trial in sorted(ended, key=lambda t: t.ended or 0.0):
        if sweep.objective.cost(values[trial.trial_id]) < sweep.objective.cost(best):
            best = values[trial.trial_id]
            rows.append([held * _elapsed(sweep, trial.ended or 0.0), best, trial.trial_id])
    if rows:
        rows.append([held * wall, best, rows[-1][2]])
    return rows


def _candidates(summary: dict[str, Any], unit: str) -> dict[str, float]:
    """The value of each trial that can be a sweep's best: those that meet the bounds, or all where none does."""
    ranked = [t for t in summary["trials"] if t["rank"] is not None]
    met = [t for t in ranked if not t["violation"]] or ranked
    if unit != "bits_per_byte":
        return {t["trial_id"]: t["objective"] for t in met}
    return {t["trial_id"]: t["bits_per_byte"]["objective"] for t in met if t["bits_per_byte"]}


def _elapsed(sweep: SweepState, moment: float) -> float:
    """Seconds the driver had run by then, without the time between an end and a resume."""
    return sum(min(max(moment - first, 0.0), last - first) for first, last in sweep.sessions)


def _value(winner: dict[str, Any], unit: str) -> dict[str, Any]:
    """A winner's loss and its standard error in the unit of the comparison, as `difference_of` takes them."""
    if unit != "bits_per_byte":
        return winner
    value = winner["bits_per_byte"]["objective"]
    stderr = winner["stderr"]
    return {
        "objective": value,
        "stderr": None if stderr is None else stderr * value / winner["objective"],
    }


def _unit(states: Sequence[SweepState], sweeps: Sequence[dict[str, Any]]) -> tuple[Unit, list[str]]:
    """The unit in which the winners of these sweeps compare, and why their objectives or costs do not."""
    unit: Unit = "nats_per_token"
    reasons = []
    objectives = {_objective(sweep) for sweep in states}
    if len(objectives) > 1:
        reasons.append("their objectives differ")
    elif states[0].objective.task is not None:
        unit = "score"
    elif len({_validation(sweep) for sweep in states}) > 1:
        known = all(s["winner"] is None or s["winner"]["bits_per_byte"] for s in sweeps)
        texts = {_text(sweep) for sweep in states}
        if known and len(texts) == 1 and None not in texts:
            unit = "bits_per_byte"
        else:
            reasons.append("the validation data or their tokens differ, so the losses cannot be compared")
    if len({s["cost"]["unit"] for s in sweeps}) > 1:
        reasons.append("some sweeps ran on GPUs and some on CPUs, so their hours cannot be compared")
    if (
        any(sweep.simulated for sweep in states)
        and len({json.dumps(sweep.simulated) for sweep in states}) > 1
    ):
        reasons.append("some sweeps are simulated, or by different curves")
    return unit, reasons


def _objective(sweep: SweepState) -> str:
    """Identity of the objective: of a task, all that changes a score but where its files lie."""
    section = sweep.spec.get("objective") or {}
    task = section.get("maximize") or section.get("minimize")
    settings = task if isinstance(task, dict) else {}
    apart = ("include_path", "batch_size", "data")
    return json.dumps(
        [sweep.objective.name, sweep.objective.mode, {k: v for k, v in settings.items() if k not in apart}],
        sort_keys=True,
    )


def _text(sweep: SweepState) -> str | None:
    """Identity of the text of the objective's validation sets, whatever the tokenizer; None where it is not known."""
    sets = (sweep.header.get("data") or {}).get("validation")
    if not isinstance(sets, list) or not all(isinstance(s, dict) for s in sets):
        return None
    decide = [(s.get("name"), s.get("weight"), s.get("text_digest")) for s in sets if s.get("weight")]
    return json.dumps(decide) if decide and all(digest for _, _, digest in decide) else None


def _validation(sweep: SweepState) -> str:
    """Identity of the validation data and tokens: digests where the ledger has them, else what the spec names."""
    data = sweep.header.get("data") or {}
    sets = data.get("validation")
    if isinstance(sets, list) and all(isinstance(s, dict) and isinstance(s.get("data"), dict) for s in sets):
        decide = [[s.get("name"), s.get("weight"), s["data"].get("digest")] for s in sets if s.get("weight")]
        return json.dumps(decide)
    return json.dumps(
        [(sweep.spec.get("data") or {}).get("validation"), sweep.spec.get("model")],
        sort_keys=True,
        default=str,
    )


def _differences(states: Sequence[SweepState]) -> list[dict[str, Any]]:
    """Rows ``{key, values}``: dotted keys of the resolved specs with different values."""
    specs = [flat({k: v for k, v in sweep.spec.items() if k != "name"}) for sweep in states]
    keys = list(dict.fromkeys(key for spec in specs for key in spec))
    rows = [{"key": key, "values": [spec.get(key) for spec in specs]} for key in keys]
    return [r for r in rows if len({json.dumps(v, sort_keys=True, default=str) for v in r["values"]}) > 1]


def _headline(
    best: dict[str, Any] | None, sweeps: Sequence[dict[str, Any]], not_comparable: list[str], unit: str
) -> str:
    if not_comparable:
        return "These sweeps cannot be ranked: " + "; ".join(not_comparable) + "."
    if best is None:
        return "No trial of any sweep has completed the full budget yet."
    by = " by bits per byte" if unit == "bits_per_byte" else ""
    text = f"{best['label']} has the best trial{by}, {best['winner']['trial_id']}"
    behind, noise = [s["behind"] for s in sweeps if s["behind"]], NOISE[unit == "score"]
    if not behind:
        return text + ": nothing to compare it with."
    if all(d["clear"] for d in behind):
        return text + f", ahead by more than the {noise}."
    if any(d["clear"] is False for d in behind):
        return text + f", but another sweep's best is within the {noise}."
    return text + "."
