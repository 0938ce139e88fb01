"""Everything the report states, as plain data: the content of report.json.

Every other output is made from this dict and computes no number of its own, so that page, tables and files agree.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

from sweepft.ledger import Row, SweepState, ranking
from sweepft.report.best_of import counts_by_best, losses_by_length
from sweepft.report.bounds import bounds_summary
from sweepft.report.cost import cost_summary
from sweepft.report.enough import enough_summary
from sweepft.report.finalists import finalists_summary
from sweepft.report.findings import importances, recipe_findings
from sweepft.report.gain import forgetting_warnings, gain_summary
from sweepft.report.learned import learned_summary
from sweepft.report.nodes import node_rows
from sweepft.report.objective import objective_summary
from sweepft.report.signals import early_signals
from sweepft.report.stops import stop_summary
from sweepft.report.trials import derived_keys, rungs_of, swept_keys, trial_record
from sweepft.report.winner import result_summary

REPORT_SCHEMA_VERSION: Final = 2
SIMULATED: Final = (
    "no model was trained; losses, times and costs were made up or played back from recorded runs."
)
_FAULT_KEYS: Final = (
    "time",
    "trial_id",
    "slot",
    "rank",
    "error",
    "message",
    "action",
    "lost_seconds",
    "node",
    "gpu",
)
_COMMAND_KEYS: Final = ("time", "who", "command", "trial_id", "arguments", "accepted", "answer")


def summarise(
    sweep: SweepState, price: float | None = None, kept: Collection[str] | None = None
) -> dict[str, Any]:
    """The report of a sweep, finished or not, as strict JSON data; docs/reference/report.md has every key.

    Args:
        sweep: The sweep.
        price: Of a GPU-hour (a slot-hour on a CPU), in any currency; None takes the spec's, if it has one.
        kept: Trials with weights in the run folder; None where that is not known.
    """
    rungs = rungs_of(sweep)
    trials = [trial_record(sweep, r.trial, r.rank, rungs) for r in ranking(sweep)]
    signals = early_signals(sweep, trials, rungs)
    space = (sweep.spec.get("search") or {}).get("space") or {}
    finalists = finalists_summary(sweep)
    result = result_summary(sweep, trials, finalists)
    cost = cost_summary(sweep, trials, price)
    result["gain"] = gain_summary(sweep, trials, result, cost, finalists)
    result["forgetting"] = forgetting_warnings(sweep, trials, result)
    summary = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "sweepft_version": sweep.header.get("sweepft_version"),
        "name": sweep.name,
        "status": sweep.status,
        "simulated": sweep.simulated,
        "finish": _pick(sweep.finish or {}, ("status", "reason")),
        "generated": round(time.time(), 3),
        "started": sweep.first_time,
        "last_row": sweep.last_time,
        "ledger_rows": sweep.rows,
        "budget_samples": sweep.budget_samples,
        "rungs": rungs,
        "objective": objective_summary(sweep, rungs),
        "swept": swept_keys(sweep),
        "derived": list(derived_keys(sweep)),
        "counts": dict(Counter(t["status"] for t in trials)),
        "result": result,
        "bounds": bounds_summary(sweep, trials, kept),
        "enough": enough_summary(sweep, trials, cost),
        "learned": learned_summary(sweep),
        "by_length": losses_by_length(sweep),
        "finalists": finalists,
        "cost": cost,
        "stops": stop_summary(sweep, trials),
        "signals": signals,
        "importances": importances(
            space,
            [
                t | {"objective": sweep.objective.cost(t["objective"])}
                for t in trials
                if t["rank"] is not None
            ],
        ),
        "findings": recipe_findings(sweep, trials, signals),
        "faults": [_pick(row, _FAULT_KEYS) for row in sweep.faults],
        "nodes": node_rows(sweep),
        "commands": [_pick(row, _COMMAND_KEYS) for row in sweep.commands],
        "provenance": _provenance(sweep),
        "not_measured": _not_measured(sweep, trials, finalists, result),
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


def _pick(row: Row, keys: tuple[str, ...]) -> dict[str, Any]:
    return {k: row.get(k) for k in keys}


def _provenance(sweep: SweepState) -> dict[str, Any]:
    latest = sweep.resumes[-1] if sweep.resumes else sweep.header
    keys = ("spec_digest", "seed", "data", "versions", "hardware", "git_commit", "command")
    resumes = [_pick(row, ("time", "command")) for row in sweep.resumes]
    return {"spec": sweep.spec, **_pick(latest, keys), "resumes": resumes}


def _not_measured(
    sweep: SweepState, trials: list[dict[str, Any]], finalists: dict[str, Any] | None, result: dict[str, Any]
) -> list[str]:
    """What a reader could assume was measured, and was not."""
    missing = []
    if sweep.simulated:
        missing.append(f"Anything real: {SIMULATED}")
    scored = {c["what"] for c in (finalists or {"columns": ()})["columns"]}
    seeds = {str(t.train_config.get("seed")) for t in sweep.trials.values() if t.replicate_of is None}
    if any(t.replicate_of for t in sweep.trials.values()):
        missing.append("Seed noise of trials without replicates: they were trained with one seed.")
    elif len(seeds) <= 1:
        missing.append("Seed noise: every configuration was trained with one seed.")
    # Finalists are compared by their scores, which need no paired losses: then `paired` is absent.
    if (result["difference"] or {}).get("paired") is False:
        missing.append(
            "Paired differences: this ledger has validation losses per set only, so differences between trials have "
            "unpaired standard errors, which overstate the sampling noise."
        )
    if (sweep.spec.get("data") or {}).get("test") and "test" not in scored:
        missing.append("The test sets: they were not read.")
    stops = [t for t in trials if t["status"] == "stopped"]
    if stops and not any(t["audited"] for t in trials):
        missing.append("Whether stops were right: no flagged trial was trained to completion as an audit.")
    if not sweep.objective.task and len({name for t in trials for name in t["validation"]}) == 1:
        missing.append("Forgetting: the only validation set is the objective.")
    if counts_by_best(sweep):
        missing.append(
            "How much of a lead is due to the choice of each trial's best evaluation: only the gain's interval allows "
            "for it."
        )
    if "task" not in scored:
        others = "Other benchmarks" if sweep.objective.task else "Benchmarks"
        missing.append(f"{others} and downstream tasks.")
    return missing
