"""Restores the search and the scheduler of a sweep from its ledger, and from nothing else.

A resume does this after a crash, and a running driver does it after a pause.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from sweepft.driver.build import Search, build_search
from sweepft.driver.control import SweepControl
from sweepft.driver.final_stage import FinalStage
from sweepft.driver.trial_ends import write_end
from sweepft.early_stopping import PriorSweeps
from sweepft.errors import LedgerCorrupt
from sweepft.ledger import EventLog, SweepState
from sweepft.ledger.codec import gc_paused
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.outcome import outcome_of
from sweepft.spec import SweepSpec

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def restored_search(
    spec: SweepSpec,
    run_dir: Path,
    event_log: EventLog,
    control: SweepControl,
    final_stage: FinalStage | None = None,
) -> Search:
    """The search and the scheduler as of the last complete result; trials that had not ended are proposed first.

    Args:
        spec: Resolved.
        run_dir: The run folder.
        event_log: Open for writing: ``end`` rows that a crash prevented are written.
        control: Of the sweep.
        final_stage: What follows the search.
    Raises:
        LedgerCorrupt: If the name of a trial would lead out of the run folder.
    """
    state = event_log.state
    _check_names(run_dir, state)
    with gc_paused():
        state.drop_partial_results()
        _write_missing_ends(event_log)
        proposer = Proposer(spec, run_dir / STUDY_FILE)
        proposer.rebuild(state)
        prior_sweeps = PriorSweeps.from_dict(state.header.get("prior_sweeps") or {})
        return build_search(
            spec, event_log, control, proposer, prior_sweeps, final_stage=final_stage, restore=True
        )


def _check_names(run_dir: Path, state: SweepState) -> None:
    for trial in state.trials.values():
        if not _FOLDER_NAME.fullmatch(str(trial.trial_id)):
            raise LedgerCorrupt(
                f"{run_dir}: row {trial.seq}: trial_id {trial.trial_id!r} cannot be the name of a folder\n"
                "  this ledger was not written by sweepft: do not resume it",
                key="ledger.trial_id",
            )


def _write_missing_ends(event_log: EventLog) -> None:
    """Write the ``end`` of trials that a crash prevented after their last result."""
    for trial in list(event_log.state.trials.values()):
        if not trial.reports or (trial.end is not None and trial.status != "interrupted"):
            continue
        decision = trial.decisions[-1] if trial.decisions else None
        grad_norm, budget = trial.history["grad_norm"][-1], event_log.state.budget_samples
        flagged = decision is not None and decision["action"] in ("stop", "divergence_check")
        diverged = not math.isfinite(grad_norm)
        if not (flagged or diverged or trial.samples_seen >= budget):
            continue
        result: dict[str, Any] = {"samples_seen": trial.samples_seen, "budget_samples": budget}
        if trial.evals and trial.evals[-1]["final"]:
            result["eval_loss"] = trial.evals[-1]["objective"]
        if diverged:
            result["diverged"] = f"the gradient norm is {float(grad_norm)} at step {trial.step}"
        write_end(
            event_log,
            trial.trial_id,
            outcome_of(result, decision),
            attempt=trial.attempts[-1].attempt if trial.attempts else 1,
            step=trial.step,
            samples_seen=trial.samples_seen,
            tokens_seen=trial.tokens_seen,
        )
