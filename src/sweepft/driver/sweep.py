"""The middle of every sweep, new or resumed: Ray, the Tuner, progress, Ctrl-C, limits, and the report at the end.

One idea: a stretch is one Tuner's life. A pause ends it and frees what it held; the driver waits, and then goes on as a
resumed sweep does, from the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.data import Prepared
from sweepft.driver.build import build_callback, build_tuner
from sweepft.driver.command_handler import CommandHandler
from sweepft.driver.configs import keep_policy
from sweepft.driver.control import SweepControl, SweepScheduler
from sweepft.driver.final_stage import FinalStage
from sweepft.driver.ledger_callback import LedgerCallback
from sweepft.driver.listeners import LiveReport, keep_weights, stop_when_nothing_works
from sweepft.driver.pausing import give_up_paused
from sweepft.driver.progress import Progress
from sweepft.driver.ray_session import ray_session
from sweepft.driver.restore import from_ledger, write_resume_row
from sweepft.driver.run_folder import storage_problem
from sweepft.driver.sidecars import Tracking
from sweepft.errors import StorageError, SweepftError
from sweepft.export import write_best
from sweepft.ledger import EventLog, SweepState, winner
from sweepft.report import write_report
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.spec import SweepSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepResult:
    """What is left when a sweep is over.

    Attributes:
        run_dir: The run folder.
        view: The folded ledger.
        status: ``finished | limit | interrupted | failed``.
        reports: Report files by kind.
        best: Folder of the winner, ready to use, or None where no trial has completed.
    """

    run_dir: Path
    view: SweepState
    status: str
    reports: dict[str, Path]
    best: Path | None = None

    @property
    def weights(self) -> Path | None:
        """Folder of the best trial's weights, if they were kept."""
        best = winner(self.view)
        folder = None if best is None else self.run_dir / "weights" / best.trial_id
        return folder if folder is not None and folder.is_dir() else None

    @property
    def exit_code(self) -> int:
        """130 when interrupted, 0 when some trial has completed, else 1."""
        if self.status == "interrupted":
            return 130
        return 0 if winner(self.view) is not None and self.status != "failed" else 1


def run_sweep(
    spec: SweepSpec,
    prepared: Prepared,
    run_dir: Path,
    *,
    event_log: EventLog,
    searcher: OptunaSearcher,
    scheduler: SweepScheduler,
    address: str | None,
    console: Console,
) -> SweepResult:
    """Run trials until the search is done, a limit is reached or somebody stops it; then write the report.

    Args:
        spec: Resolved.
        prepared: Its data.
        run_dir: Its folder.
        recorder: Open for writing; the ``sweep`` row is written.
        searcher: Fresh, or rebuilt from the ledger, as is the scheduler.
        scheduler: Judges trials.
        address: Ray cluster, None for a local one.
        console: Where progress is shown.
    Raises:
        ResourceError: If not even one trial fits.
        StorageError: If the ledger can no longer be written; what it holds is whole.
    """
    control = SweepControl()
    limit = _Limit(spec, event_log.view)
    command_handler = CommandHandler(spec, run_dir, event_log, control, limit.reached)
    progress = Progress(event_log.view, spec.resources.concurrent_trials, console)
    event_log.listeners += [
        progress.on_row,
        LiveReport(run_dir, event_log.view).on_row,
        stop_when_nothing_works(control, event_log.view),
        keep_weights(keep_policy(spec, prepared, run_dir), event_log.view),
    ]
    always = tuple(event_log.listeners)

    def session() -> None:
        # Trackers end with every ``finish`` row, that of a pause too.
        trackers = [Tracking(run_dir, console).on_row] if spec.track.names else []
        event_log.listeners[:] = [*always, *trackers]
        with ray_session(spec, run_dir, address) as warning:
            if warning:
                console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
            callback = _session(
                spec, prepared, run_dir, event_log, searcher, scheduler, command_handler, control
            )
        callback.close()  # not before the slots are gone: until then their time is the sweep's

    with _interrupts(control, console), progress:
        session()
        while (
            command_handler.cut
            and not control.soft
            and _wait_while_paused(event_log, command_handler, searcher)
        ):
            write_resume_row(spec, prepared, event_log)
            searcher, scheduler = from_ledger(spec, prepared.budget_samples, run_dir, event_log)
            session()
    if not control.soft:
        give_up_paused(
            spec,
            run_dir,
            event_log=event_log,
            scheduler=scheduler,
            proposer=searcher.proposer,
            limit=limit.reached(),
        )
    command_handler.close()
    searcher.proposer.close()
    status, reason = _status(control, limit, event_log.view)
    event_log.write("finish", status=status, reason=reason)
    # As large as the model, and made again in seconds.
    shutil.rmtree(run_dir / "base", ignore_errors=True)
    return SweepResult(run_dir, event_log.view, status, write_report(run_dir), _best(run_dir, event_log.view))


def _ended_by_storage(event_log: EventLog, failure: StorageError) -> StorageError:
    """Say in the ledger why the sweep ended, if it can still be written; a resume needs no such row."""
    with contextlib.suppress(SweepftError):
        event_log.ledger.append("finish", status="interrupted", reason=str(failure))
    return failure


def _wait_while_paused(
    event_log: EventLog, command_handler: CommandHandler, searcher: OptunaSearcher
) -> bool:
    """Wait while the sweep is paused; whether it goes on then."""
    who = event_log.view.accepted("pause")[-1]["who"]
    event_log.write("finish", status="paused", reason=f"paused by {who}")
    searcher.proposer.close()
    command_handler.leave()
    return command_handler.wait()


def _session(
    spec: SweepSpec,
    prepared: Prepared,
    run_dir: Path,
    event_log: EventLog,
    searcher: OptunaSearcher,
    scheduler: SweepScheduler,
    command_handler: CommandHandler,
    control: SweepControl,
) -> LedgerCallback:
    """Run trials in one Tuner until there are no more, or somebody wants an end. Returns who wrote their rows."""
    command_handler.begin(scheduler, searcher.proposer)
    searcher.should_stop = lambda: command_handler.pausing or command_handler.closing() is not None
    callback = build_callback(spec, run_dir, event_log, scheduler, searcher, control, command_handler)
    final_stage = FinalStage(
        spec, prepared, run_dir, event_log=event_log, control=control, reported=searcher.reported
    )
    searcher.afterwards = lambda busy: "finished" if command_handler.pausing else final_stage.ask(busy)
    callback.on_left, command_handler.final_stage = final_stage.left, final_stage
    tuner = build_tuner(
        spec,
        prepared,
        run_dir,
        searcher=searcher,
        scheduler=scheduler,
        callback=callback,
        control=control,
        command_handler=command_handler,
    )
    try:
        tuner.fit()
    except Exception:
        failure = event_log.failure or storage_problem(run_dir)
        if failure is None:
            raise
        raise _ended_by_storage(event_log, failure) from None
    if event_log.failure is not None:  # in Tune's last moments, where it keeps errors to itself
        raise _ended_by_storage(event_log, event_log.failure)
    return callback


def _best(run_dir: Path, view: SweepState) -> Path | None:
    """Make ``best/``. The sweep is over and its ledger whole: what goes wrong here must not fail it."""
    try:
        return write_best(run_dir, view)
    except Exception as error:
        _log.warning("best/ not written: run=%s error=%r", run_dir, error)
        return None


def _status(control: SweepControl, limit: _Limit, view: SweepState) -> tuple[str, str | None]:
    if control.soft:
        return ("failed" if control.gave_up else "interrupted"), control.reason
    if limit.reached() is not None:
        return "limit", limit.reached()
    if winner(view) is None:
        return "failed", "no trial has reached its full budget"
    return "finished", None


class _Limit:
    """``search.limit``: when to propose no more."""

    def __init__(self, spec: SweepSpec, view: SweepState) -> None:
        self._limit = spec.search.limit
        self._gpus = spec.resources.gpus_per_worker > 0
        self._view = view
        self._began = time.time()

    def reached(self) -> str | None:
        if self._limit is None:
            return None
        hours = (time.time() - self._began) / 3600
        if self._limit.hours is not None and hours >= self._limit.hours:
            return f"search.limit.hours: {self._limit.hours:g} are over"
        spent = sum((self._view.gpu_phases if self._gpus else self._view.phases).values()) / 3600
        if self._limit.gpu_hours is not None and spent >= self._limit.gpu_hours:
            return f"search.limit.gpu_hours: {self._limit.gpu_hours:g} are spent"
        return None


@contextlib.contextmanager
def _interrupts(control: SweepControl, console: Console) -> Iterator[None]:
    """Ctrl-C once ends trials at their next window, twice ends them now. Both leave a run that can be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: Any) -> None:
        control.ask("stopped by its user" if number == signal.SIGINT else "asked to terminate")
        words = (
            "stopping now" if control.hard else "stopping at the next windows; press Ctrl-C again to stop now"
        )
        console.print(words, style="yellow", highlight=False)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
