"""How the driver ends trials: the ``end`` row, and trials that are stopped while no slot trains them."""

from __future__ import annotations

from pathlib import Path

from sweepft.driver.scheduler import SweepScheduler
from sweepft.ledger import EventLog, Row, TrialState
from sweepft.search import Proposer
from sweepft.search.outcome import Outcome
from sweepft.slot.checkpoints import remove_checkpoints


def write_end(
    event_log: EventLog,
    trial_id: str,
    outcome: Outcome,
    *,
    attempt: int,
    step: int,
    samples_seen: int,
    tokens_seen: int,
) -> Row:
    """Write the ``end`` row of a trial."""
    return event_log.write(
        "end",
        trial_id=trial_id,
        attempt=attempt,
        status=outcome.status,
        reason=outcome.reason,
        objective=outcome.objective,
        step=step,
        samples_seen=samples_seen,
        tokens_seen=tokens_seen,
    )


def stop_idle_trial(
    event_log: EventLog,
    trial: TrialState,
    reason: str,
    *,
    checkpoints: Path,
    scheduler: SweepScheduler | None,
    proposer: Proposer | None,
) -> None:
    """End a trial that no slot trains as stopped: in ledger, scheduler and study, and on disk.

    Args:
        event_log: Of the sweep.
        trial: Paused, or interrupted in a paused sweep.
        reason: A sentence.
        checkpoints: The run's ``checkpoints/``.
        scheduler, proposer: Of the running session; None between sessions.
    """
    write_end(
        event_log,
        trial.trial_id,
        Outcome("stopped", reason=reason),
        attempt=len(trial.attempts),
        step=trial.step,
        samples_seen=trial.samples_seen,
        tokens_seen=trial.tokens_seen,
    )
    if scheduler is not None and proposer is not None:
        scheduler.give_up(trial.trial_id)
        proposer.tell(trial.trial_id, "stopped", reason=reason)
    remove_checkpoints(checkpoints / trial.trial_id)


def stop_paused_trials(
    event_log: EventLog,
    *,
    scheduler: SweepScheduler,
    proposer: Proposer,
    checkpoints: Path,
    from_scratch: bool,
    limit: str | None,
) -> None:
    """End the trials that are still paused when the search is over, with the reason why they were not resumed.

    Args:
        event_log: Of the sweep.
        scheduler: Has paused them.
        proposer: Of the sweep.
        checkpoints: The run's ``checkpoints/``.
        from_scratch: Whether a resumed trial would have trained again from its start.
        limit: The limit that was reached, as a sentence; None without one.
    """
    for paused in scheduler.paused_trials(from_scratch=from_scratch):
        trial = event_log.state.trials[paused.trial_id]
        why = limit if limit is not None and paused.worth else paused.reason
        stop_idle_trial(
            event_log,
            trial,
            f"{trial.reason}; it was paused and not resumed: {why}",
            checkpoints=checkpoints,
            scheduler=scheduler,
            proposer=proposer,
        )
