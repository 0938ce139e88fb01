"""Parked trials in a sweep: when they come back, and how the rest of them end.

A parked trial has ended for Tune and for its slot; the study and the ledger hold it open. It comes back as a proposal
like any other, from its state or by training again; which ones are worth it is decided by `sweepft.early_stopping.pausing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sweepft.driver.configs import checkpoint_policy
from sweepft.ledger import EventLog
from sweepft.schedulers import EarlyDynamicsScheduler
from sweepft.search import Proposer
from sweepft.slot.checkpoints import remove_checkpoints
from sweepft.spec import SweepSpec


def resume_candidates(
    spec: SweepSpec, scheduler: EarlyDynamicsScheduler
) -> Callable[[], Sequence[str]] | None:
    """What the searcher asks when it has nothing new to propose; None where no trial is ever parked."""
    if not spec.early_stop.pause:
        return None
    return lambda: [p.trial_id for p in scheduler.paused_trials(from_scratch=_from_scratch(spec)) if p.worth]


def give_up_paused(
    spec: SweepSpec,
    run_dir: Path,
    *,
    event_log: EventLog,
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
    for paused_trial in scheduler.paused_trials(from_scratch=_from_scratch(spec)):
        trial = event_log.view.trials[paused_trial.trial_id]
        why = limit if limit is not None and paused_trial.worth else paused_trial.reason
        reason = f"{trial.reason}; it was parked and did not come back: {why}"
        event_log.write(
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
        remove_checkpoints(Path(checkpoint_policy(spec, run_dir).folder) / trial.trial_id)


def _from_scratch(spec: SweepSpec) -> bool:
    """Whether no state of a parked trial is kept, so that it would be trained again from its start."""
    return spec.checkpoint == "none"
