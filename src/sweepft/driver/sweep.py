"""One sweep from its first trial to its report.

``run_sweep`` runs sessions. A session is the life of one Tuner; a pause ends it and frees its slots. When the sweep is
continued, the next session is restored from the ledger, in the same way as a resumed sweep.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.data import Prepared
from sweepft.driver.build import (
    Search,
    build_callback,
    build_search,
    build_tuner,
    new_proposer,
    restored_search,
    trains_from_scratch,
)
from sweepft.driver.cluster_room import PlacementWatch
from sweepft.driver.commands import CommandHandler, CommandPoller
from sweepft.driver.configs import checkpoint_policy, keep_policy
from sweepft.driver.control import Limit, SweepControl
from sweepft.driver.enough import EnoughCheck
from sweepft.driver.final_stage import FinalStage
from sweepft.driver.ledger_callback import LedgerCallback
from sweepft.driver.ledger_listeners import (
    LiveReport,
    keep_weights,
    say_when_bounds_are_not_met,
    stop_when_nothing_works,
)
from sweepft.driver.progress import Progress
from sweepft.driver.ray_session import ray_session
from sweepft.driver.run_folder import storage_problem, sweep_row, with_trials
from sweepft.driver.scheduler import stop_paused_trials
from sweepft.driver.sidecars import Tracking
from sweepft.driver.signals import SweepSignals
from sweepft.driver.task_objective import say_where_objective_is_measured
from sweepft.early_stopping import PriorSweeps
from sweepft.errors import SweepftError
from sweepft.export import write_best
from sweepft.interrupts import Interrupted
from sweepft.ledger import EventLog, Row, SweepState, winner
from sweepft.report import write_report
from sweepft.spec import SweepSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves behind.

    Attributes:
        run_dir: The run folder.
        view: The state folded from the ledger.
        status: ``finished | limit | interrupted | failed``.
        reports: Report files by kind.
        best: Folder of the winner, ready to use; None where no trial has completed.
        interrupted: Whether a signal came while the report was written: the trials are over, and a resume has only
            the report to write.
        fault: Why the sweep gave up before its end; None if it did not.
    """

    run_dir: Path
    view: SweepState
    status: str
    reports: dict[str, Path]
    best: Path | None = None
    interrupted: bool = False
    fault: str | None = None

    @property
    def weights(self) -> Path | None:
        """Folder of the best trial's weights, if they were kept."""
        best = winner(self.view)
        folder = None if best is None else self.run_dir / "weights" / best.trial_id
        return folder if folder is not None and folder.is_dir() else None

    @property
    def exit_code(self) -> int:
        """130 when interrupted by a person or a signal, 0 when a trial has completed, else 1."""
        if self.fault is not None:
            return 1
        if self.status == "interrupted" or self.interrupted:
            return 130
        return 0 if winner(self.view) is not None and self.status != "failed" else 1


@dataclass(frozen=True)
class Sweep:
    """The parts of a sweep that outlive its sessions.

    Attributes:
        spec: Resolved.
        prepared: Its data.
        run_dir: Its folder.
        event_log: Open for writing; the ``sweep`` row is written.
        control: Its state machine.
        console: Where progress is shown.
        signals: Handles them; entered by the caller.
    """

    spec: SweepSpec
    prepared: Prepared
    run_dir: Path
    event_log: EventLog
    control: SweepControl
    console: Console
    signals: SweepSignals

    @classmethod
    def begin(
        cls, spec: SweepSpec, prepared: Prepared, run_dir: Path, event_log: EventLog, console: Console
    ) -> Sweep:
        """A sweep whose limits count from now."""
        control = SweepControl(Limit(spec, event_log.state).reached)
        signals = SweepSignals(control, console)
        return cls(spec, prepared, run_dir, event_log, control, console, signals)

    def new_search(self, prior_sweeps: PriorSweeps) -> Search:
        """A search that has proposed nothing yet."""
        proposer = new_proposer(self.spec, self.run_dir, self.event_log.state)
        return build_search(
            self.spec,
            self.event_log,
            self.control,
            proposer,
            prior_sweeps,
            final_stage=self._final_stage(),
        )

    def restored_search(self) -> Search:
        """The search as the ledger has it; see `sweepft.driver.build`."""
        return restored_search(self.spec, self.run_dir, self.event_log, self.control, self._final_stage())

    def write_resume_row(
        self, trials: int | None, changes: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        """Write the ``sweep`` row with which a later session begins.

        Args:
            trials: Number of trials from now on, without clones.
            changes: Keys of the spec that differ, each with its old and new value.
        """
        state = self.event_log.state
        row = sweep_row(with_trials(self.spec, trials), self.prepared)
        prior_sweeps = state.header.get("prior_sweeps")
        self.event_log.write(
            "sweep", resumed=True, **row, changes=dict(changes or {}), prior_sweeps=prior_sweeps
        )

    def warn(self, text: str) -> None:
        """Show a warning."""
        self.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _final_stage(self) -> FinalStage:
        return FinalStage(
            self.spec, self.prepared, self.run_dir, event_log=self.event_log, control=self.control
        )


def run_sweep(sweep: Sweep, search: Search, address: str | None) -> SweepResult:
    """Run trials until the search is done, a limit is reached or the sweep is stopped; then write the report.

    Args:
        sweep: As begun.
        search: New, or restored from the ledger.
        address: Ray cluster to join, None for a local one.
    Raises:
        ResourceError: If not even one trial fits.
        StorageError: If the ledger can no longer be written; what it holds is complete.
        LeaseLost: If another driver has taken the run over.
    """
    spec, run_dir, event_log, control = sweep.spec, sweep.run_dir, sweep.event_log, sweep.control
    commands = CommandHandler(spec, run_dir, event_log, control)
    progress = Progress(event_log.state, spec.resources.concurrent_trials, sweep.console)
    event_log.listeners += [
        progress.on_row,
        LiveReport(run_dir, event_log.state).on_row,
        stop_when_nothing_works(control, event_log.state),
        keep_weights(keep_policy(spec, sweep.prepared, run_dir), event_log.state),
        say_when_bounds_are_not_met(spec, event_log.state, sweep.warn),
        say_where_objective_is_measured(spec, event_log.state, sweep.warn),
    ]
    if spec.search.enough is not None:
        enough = EnoughCheck(spec, spec.search.enough, event_log, control)
        enough.take_up()
        event_log.listeners.append(enough.on_row)
    lasting = tuple(event_log.listeners)  # a session adds its own
    try:
        with progress:
            if not control.stopping:  # by a signal during the start
                _run_session(sweep, search, commands, lasting, address)
            while (
                control.paused_in_session
                and not control.stopping
                and _wait_while_paused(event_log, commands, search)
            ):
                sweep.write_resume_row(event_log.state.asked_trials)
                search = sweep.restored_search()
                _run_session(sweep, search, commands, lasting, address)
    except Interrupted as signal:
        _note_end(event_log, str(signal))
        raise
    if not control.stopping:
        stop_paused_trials(
            event_log,
            scheduler=search.scheduler,
            proposer=search.proposer,
            checkpoints=Path(checkpoint_policy(spec, run_dir).folder),
            from_scratch=trains_from_scratch(spec),
            limit=control.enough or control.limit_reached(),
        )
    return _finish(sweep, search, commands)


def _run_session(
    sweep: Sweep,
    search: Search,
    commands: CommandHandler,
    lasting: Sequence[Callable[[Row], None]],
    address: str | None,
) -> None:
    """Run one Tuner until there are no more jobs, or the sweep is paused or stopped."""
    event_log = sweep.event_log
    event_log.listeners[:] = lasting
    if sweep.spec.track.names:  # a tracker ends with each ``finish`` row, also that of a pause
        event_log.listeners.append(Tracking(sweep.run_dir, sweep.console).on_row)
    if search.final_stage is not None:
        event_log.listeners.append(search.final_stage.on_row)
    with ray_session(sweep.spec, sweep.run_dir, address) as warnings:
        for warning in warnings:
            sweep.warn(warning)
        sweep.control.begin_session()
        commands.begin_session(search.scheduler, search.proposer)
        callback = build_callback(sweep.spec, sweep.run_dir, event_log, search)
        _fit(sweep, search, callback, commands)
    callback.close()  # after the slots are gone: until then their time is the sweep's


def _fit(sweep: Sweep, search: Search, callback: LedgerCallback, commands: CommandHandler) -> None:
    event_log, health = sweep.event_log, search.fault_policy.health
    tuner = build_tuner(
        sweep.spec,
        sweep.prepared,
        sweep.run_dir,
        search=search,
        control=sweep.control,
        callbacks=[
            CommandPoller(commands),
            PlacementWatch(
                sweep.spec, sweep.control, sweep.warn, kept_out=lambda: health.kept_out, rest=health.rest
            ),
            search.gpu_holder,
            callback,
        ],
    )
    try:
        tuner.fit()
    except Exception:
        failure = event_log.failure or storage_problem(sweep.run_dir)
        if failure is None and sweep.signals.received:  # it was sent to Ray's processes too
            _log.warning("Ray ended with the sweep", exc_info=True)
            return
        if failure is None:
            raise
        _note_end(event_log, str(failure))
        raise failure from None
    finally:
        search.gpu_holder.close()
    if event_log.failure is not None:  # in Tune's last moments, where Tune swallows exceptions
        _note_end(event_log, str(event_log.failure))
        raise event_log.failure


def _note_end(event_log: EventLog, reason: str) -> None:
    """Write why the sweep ended, if the ledger can still be written; a resume does not need the row."""
    with contextlib.suppress(SweepftError):
        event_log.ledger.append("finish", status="interrupted", reason=reason)


def _wait_while_paused(event_log: EventLog, commands: CommandHandler, search: Search) -> bool:
    """Wait while the sweep is paused; whether it continues then (else it is to stop)."""
    who = event_log.state.accepted("pause")[-1]["who"]
    event_log.write("finish", status="paused", reason=f"paused by {who}")
    search.proposer.close()
    commands.end_session()
    return commands.wait_while_paused()


def _finish(sweep: Sweep, search: Search, commands: CommandHandler) -> SweepResult:
    """Close everything, write the last row and the report."""
    run_dir, view = sweep.run_dir, sweep.event_log.state
    sweep.signals.begin_report()
    before = sweep.signals.received
    commands.close()
    search.proposer.close()
    status, reason = _status(sweep.control, view)
    sweep.control.finish()
    sweep.event_log.write("finish", status=status, reason=reason)
    shutil.rmtree(run_dir / "base", ignore_errors=True)  # as large as the model, and rebuilt in seconds
    reports, best = write_report(run_dir), _write_best(run_dir, view)
    signalled = sweep.signals.received > before
    fault = sweep.control.reason if sweep.control.gave_up else None
    return SweepResult(run_dir, view, status, reports, best, signalled, fault)


def _status(control: SweepControl, view: SweepState) -> tuple[str, str | None]:
    if control.stopping:
        failed = control.gave_up and not control.resumable
        return ("failed" if failed else "interrupted"), control.reason
    limit = control.limit_reached()
    if limit is not None:
        return "limit", limit
    if winner(view) is None:
        return "failed", "no trial has reached its full budget"
    return "finished", control.enough


def _write_best(run_dir: Path, view: SweepState) -> Path | None:
    """Write ``best/``. The sweep is over and its ledger complete, so an error here is logged only."""
    try:
        return write_best(run_dir, view)
    except Exception as error:
        _log.warning("best/ not written: run=%s error=%r", run_dir, error)
        return None
