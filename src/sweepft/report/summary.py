"""Everything the report states, as plain data: what report.json holds and every other output is made from.

One idea: numbers are computed here and nowhere else, so that page, tables and files cannot disagree.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any, Final

from sweepft.ledger import SweepState, ranking
from sweepft.report.cost import cost_summary
from sweepft.report.finalists import finalists_summary
from sweepft.report.findings import recipe_findings
from sweepft.report.importance import importances
from sweepft.report.signals import early_signals
from sweepft.report.stops import stop_summary
from sweepft.report.trials import rungs_of, swept_keys, trial_record
from sweepft.report.winner import answer

REPORT_SCHEMA_VERSION: Final = 1


SIMULATED: Final = (
    "no model was trained; losses, times and costs were made up or played back from recorded runs."
)


"""What every form of the report says of a simulated sweep."""


def summarise(view: SweepState, price: float | None = None) -> dict[str, Any]:
    """The report of a sweep as it stands, finished or not; see docs/reference/report.md for every key.

    Args:
        view: The sweep.
        price: Of a GPU-hour (of a slot-hour on a CPU), in any currency; None takes that of the spec, if any.

    Numbers that are not finite are None, so that the result is strict JSON.
    """
    rungs = rungs_of(view)
    trials = [trial_record(view, r.trial, r.rank, rungs) for r in ranking(view)]
    signals = early_signals(view, trials, rungs)
    space = (view.spec.get("search") or {}).get("space") or {}
    ranked = [t for t in trials if t["rank"] is not None]
    finals = finalists_summary(view)
    first = answer(view, trials, finals)
    summary = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "sweepft_version": view.header.get("sweepft_version"),
        "name": view.name,
        "status": view.status,
        "simulated": view.simulated,
        "finish": {k: (view.finish or {}).get(k) for k in ("status", "reason")},
        "generated": round(time.time(), 3),
        "started": view.first_time,
        "last_row": view.last_time,
        "ledger_rows": view.rows,
        "budget_samples": view.budget_samples,
        "rungs": rungs,
        "swept": swept_keys(view),
        "counts": dict(Counter(t["status"] for t in trials)),
        "answer": first,
        "finalists": finals,
        "cost": cost_summary(view, trials, price),
        "stops": stop_summary(view, trials),
        "signals": signals,
        "importances": importances(space, ranked),
        "findings": recipe_findings(view, trials, signals),
        "faults": [
            {
                k: f.get(k)
                for k in ("time", "trial_id", "slot", "rank", "error", "message", "action", "lost_seconds")
            }
            for f in view.faults
        ],
        "commands": [
            {k: c.get(k) for k in ("time", "who", "command", "trial_id", "arguments", "accepted", "answer")}
            for c in view.commands
        ],
        "provenance": _provenance(view),
        "not_measured": _not_measured(view, trials, finals, first),
        "trials": trials,
    }
    cleaned: dict[str, Any] = finite(summary)
    return cleaned


def finite(value: Any) -> Any:
    """The value with every number that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def _provenance(view: SweepState) -> dict[str, Any]:
    latest = view.resumes[-1] if view.resumes else view.header
    keys = ("spec_digest", "seed", "data", "versions", "hardware", "git_commit", "command")
    resumes = [{"time": r.get("time"), "command": r.get("command")} for r in view.resumes]
    return {"spec": view.spec, **{k: latest.get(k) for k in keys}, "resumes": resumes}


def _not_measured(
    view: SweepState, trials: list[dict[str, Any]], finals: dict[str, Any] | None, found: dict[str, Any]
) -> list[str]:
    """What a reader might think was measured, and was not."""
    missing = []
    if view.simulated:
        missing.append(f"Anything real: {SIMULATED}")
    parts = {c["what"] for c in (finals or {"columns": ()})["columns"]}
    seeds = {str(t.train_config.get("seed")) for t in view.trials.values() if t.replicate_of is None}
    if any(t.replicate_of for t in view.trials.values()):
        missing.append("Seed noise of trials that were not confirmed: they were trained with one seed.")
    elif len(seeds) <= 1:
        missing.append("Seed noise: every configuration was trained with one seed.")
    if (found["difference"] or {}).get("paired") is False:  # of finalists by their scores it says nothing
        missing.append(
            "Paired differences: this ledger has held-out losses per set only; differences between trials are judged "
            "with unpaired standard errors, which overstate the held-out noise."
        )
    if (view.spec.get("data") or {}).get("test") and "test" not in parts:
        missing.append("The sealed test sets: they were not read.")
    stops = [t for t in trials if t["status"] == "stopped"]
    if stops and not any(t["audited"] for t in trials):
        missing.append("Whether stops were right: no condemned trial was run on as an audit.")
    sets = {name for t in trials for name in t["validation"]}
    if len(sets) == 1:
        missing.append("Forgetting: no held-out set besides the one that decides.")
    if "task" not in parts:
        missing.append("Benchmarks and downstream tasks.")
    return missing
