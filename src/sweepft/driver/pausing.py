"""Parked trials in a sweep: when they come back, and how the rest of them end.

A parked trial has ended for Tune and for its slot; the study and the ledger hold it open. It comes back as a proposal
like any other, from its state or by training again; which ones are worth it is decided by `sweepft.early_stopping.pausing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sweepft.driver.configs import state_plan
from sweepft.driver.ledger_callback import Recorder
from sweepft.schedulers import EarlyDynamicsScheduler
from sweepft.search import Proposer
from sweepft.slot.checkpoints import remove_states
from sweepft.spec import SweepSpec


def comebacks(spec: SweepSpec, scheduler: EarlyDynamicsScheduler) -> Callable[[], Sequence[str]] | None:
    """What the searcher asks when it has nothing new to propose; None where no trial is ever parked."""
    if not spec.early_stop.park:
        return None
    return lambda: [p.trial_id for p in scheduler.prospects(from_scratch=_from_scratch(spec)) if p.worth]


def give_up_parked(
    spec: SweepSpec,
    run_dir: Path,
    *,
    recorder: Recorder,
    scheduler: EarlyDynamicsScheduler,
    proposer: Proposer,
    limit: str | None,
) -> None:
    """End the trials that are still parked: stopped, with the reason why they did not come back.

    Args:
        spec: Of the sweep.
        run_dir: Its folder.
        recorder: Writes their ``end`` rows.
        scheduler: Parked them.
        proposer: Tells the study.
        limit: The limit that was reached, as a sentence; None when none was.
    """
    for prospect in scheduler.prospects(from_scratch=_from_scratch(spec)):
        trial = recorder.view.trials[prospect.trial_id]
        why = limit if limit is not None and prospect.worth else prospect.reason
        reason = f"{trial.reason}; it was parked and did not come back: {why}"
        recorder.write(
            "end",
            trial_id=trial.trial_id,
            attempt=len(trial.attempts),
            status="stopped",
            reason=reason,
            objective=None,
            step=trial.step,
            samples_seen=trial.samples_seen,
            tokens_seen=trial.tokens_seen,
        )
        scheduler.give_up(trial.trial_id)
        proposer.tell(trial.trial_id, "stopped", reason=reason)
        remove_states(Path(state_plan(spec, run_dir).folder) / trial.trial_id)


def _from_scratch(spec: SweepSpec) -> bool:
    """Whether no state of a parked trial is kept, so that it would be trained again from its start."""
    return spec.checkpoint == "none"
