"""A sweep made anew from its ledger: study and scheduler as they would be, had nothing happened.

For whoever goes on with a sweep: another driver after a crash, or the same one after a pause. Nothing but the ledger is
trusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweepft.data import Prepared
from sweepft.driver.build import build_scheduler
from sweepft.driver.control import SweepScheduler
from sweepft.driver.ledger_callback import outcome
from sweepft.driver.run_folder import sweep_row
from sweepft.early_stopping import PriorSweeps
from sweepft.early_stopping.prior_sweeps import search_trials
from sweepft.errors import LedgerCorrupt
from sweepft.ledger import EventLog, Row, complete_results, read_ledger
from sweepft.ledger.codec import gc_paused
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.spec import SweepSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def write_resume_row(spec: SweepSpec, prepared: Prepared, event_log: EventLog) -> None:
    """Write the ``sweep`` row with which a session of the driver begins."""
    history = event_log.view.header.get("prior_sweeps")
    event_log.write("sweep", resumed=True, **sweep_row(spec, prepared), prior_sweeps=history)


def from_ledger(
    spec: SweepSpec, budget_samples: int, run_dir: Path, event_log: EventLog, rows: list[Row] | None = None
) -> tuple[OptunaSearcher, SweepScheduler]:
    """Search and scheduler that know what the ledger knows; trials that had not ended are proposed first.

    Args:
        spec: Resolved.
        budget_samples: Samples of a trial.
        run_dir: Its folder.
        recorder: Open for writing; ends that a crash has prevented are written.
        rows: Of the ledger, where they are at hand already.
    Raises:
        LedgerCorrupt: If a trial's name would lead out of the run folder.
    """
    with gc_paused():
        rows, reported = complete_results(rows if rows is not None else read_ledger(run_dir))
        _check_names(run_dir, rows)
        rows += _end_what_has_ended(event_log, rows)
        rows = list(search_trials(rows))
        proposer = Proposer(spec, run_dir / STUDY_FILE)
        proposer.rebuild(rows)
        history = PriorSweeps.from_dict(event_log.view.header.get("prior_sweeps") or {})
        scheduler = build_scheduler(spec, budget_samples, history)
        scheduler.adopt_rows(rows)
    return OptunaSearcher(proposer, budget_samples, reported=reported), scheduler


def _check_names(run_dir: Path, rows: Sequence[Row]) -> None:
    """Refuse trials whose names, as names of folders, would lead out of the run folder."""
    for row in rows:
        if row["kind"] == "trial" and not _NAME.fullmatch(str(row["trial_id"])):
            raise LedgerCorrupt(
                f"{run_dir}: row {row['seq']}: trial_id {row['trial_id']!r} cannot be the name of a folder\n"
                "  this ledger was not written by sweepft: do not go on with it"
            )


def _end_what_has_ended(event_log: EventLog, rows: Sequence[Row]) -> list[Row]:
    """Write the ``end`` of trials whose last result was their last, but whose ``end`` row a crash prevented."""
    last: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.get("trial_id") is not None:
            last.setdefault(row["trial_id"], {})[row["kind"]] = row
    written = []
    for name, kinds in last.items():
        ended = kinds.get("end")
        if "steps" not in kinds or (ended is not None and ended["status"] != "interrupted"):
            continue
        result = _last_result(kinds, event_log.view.budget_samples)
        decision = kinds.get("decision")
        flagged = decision is not None and decision["action"] in ("stop", "divergence_check")
        if not (flagged or "diverged" in result or result["samples_seen"] >= result["budget_samples"]):
            continue
        how = outcome(result, decision)
        written.append(
            event_log.write(
                "end",
                trial_id=name,
                attempt=kinds["steps"]["attempt"],
                status=how.status,
                reason=how.reason,
                objective=how.objective,
                **{key: result[key] for key in ("step", "samples_seen", "tokens_seen")},
            )
        )
    return written


def _last_result(kinds: Mapping[str, Row], budget_samples: int) -> dict[str, Any]:
    """What a trial reported last, put together from its rows as far as ``outcome`` asks for it."""
    history = kinds["steps"]["history"]
    result = {name: history[name][-1] for name in ("step", "samples_seen", "tokens_seen", "grad_norm")}
    result["budget_samples"] = budget_samples
    evaluated = kinds.get("eval")
    if evaluated is not None and evaluated["final"]:
        result["eval_loss"] = evaluated["objective"]
    if not math.isfinite(result["grad_norm"]):
        result["diverged"] = f"the gradient norm is {result['grad_norm']} at step {result['step']}"
    return result
