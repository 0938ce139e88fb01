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
from sweepft.driver.command_handler import Steering
from sweepft.driver.configs import keep_plan
from sweepft.driver.control import SweepScheduler, Winding
from sweepft.driver.final_stage import Finals
from sweepft.driver.ledger_callback import LedgerCallback, Recorder
from sweepft.driver.listeners import LiveReport, keep_weights, stop_when_nothing_works
from sweepft.driver.pausing import give_up_parked
from sweepft.driver.progress import Progress
from sweepft.driver.ray_session import ray_session
from sweepft.driver.restore import begin_again, from_ledger
from sweepft.driver.run_folder import storage_problem
from sweepft.driver.sidecars import Tracking
from sweepft.errors import StorageError, SweepftError
from sweepft.export import write_best
from sweepft.ledger import RunView
from sweepft.report import write_report
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.spec import SweepSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What is left when a sweep is over.

    Attributes:
        run_dir: The run folder.
        view: The folded ledger.
        status: ``finished | limit | interrupted | failed``.
        reports: Report files by kind.
        best: Folder of the winner, ready to use, or None where no trial has completed.
    """

    run_dir: Path
    view: RunView
    status: str
    reports: dict[str, Path]
    best: Path | None = None

    @property
    def weights(self) -> Path | None:
        """Folder of the best trial's weights, if they were kept."""
        best = self.view.best
        folder = None if best is None else self.run_dir / "weights" / best.trial_id
        return folder if folder is not None and folder.is_dir() else None

    @property
    def exit_code(self) -> int:
        """130 when interrupted, 0 when some trial has completed, else 1."""
        if self.status == "interrupted":
            return 130
        return 0 if self.view.best is not None and self.status != "failed" else 1


def conduct(
    spec: SweepSpec,
    prepared: Prepared,
    run_dir: Path,
    *,
    recorder: Recorder,
    searcher: OptunaSearcher,
    scheduler: SweepScheduler,
    address: str | None,
    console: Console,
) -> Finished:
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
    winding = Winding()
    limit = _Limit(spec, recorder.view)
    steering = Steering(spec, run_dir, recorder, winding, limit.reached)
    progress = Progress(recorder.view, spec.resources.concurrent_trials, console)
    recorder.listeners += [
        progress.on_row,
        LiveReport(run_dir, recorder.view).on_row,
        stop_when_nothing_works(winding, recorder.view),
        keep_weights(keep_plan(spec, prepared, run_dir), recorder.view),
    ]
    always = tuple(recorder.listeners)

    def stretch() -> None:
        # Trackers end with every ``finish`` row, that of a pause too.
        trackers = [Tracking(run_dir, console).on_row] if spec.track.names else []
        recorder.listeners[:] = [*always, *trackers]
        with ray_session(spec, run_dir, address) as warning:
            if warning:
                console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
            callback = _stretch(spec, prepared, run_dir, recorder, searcher, scheduler, steering, winding)
        callback.close()  # not before the slots are gone: until then their time is the sweep's

    with _interrupts(winding, console), progress:
        stretch()
        while steering.cut and not winding.soft and _sit_out(recorder, steering, searcher):
            begin_again(spec, prepared, recorder)
            searcher, scheduler = from_ledger(spec, prepared.budget_samples, run_dir, recorder)
            stretch()
    if not winding.soft:
        give_up_parked(
            spec,
            run_dir,
            recorder=recorder,
            scheduler=scheduler,
            proposer=searcher.proposer,
            limit=limit.reached(),
        )
    steering.close()
    searcher.proposer.close()
    status, reason = _status(winding, limit, recorder.view)
    recorder.write("finish", status=status, reason=reason)
    # As large as the model, and made again in seconds.
    shutil.rmtree(run_dir / "base", ignore_errors=True)
    return Finished(run_dir, recorder.view, status, write_report(run_dir), _best(run_dir, recorder.view))


def _ended_by_storage(recorder: Recorder, failure: StorageError) -> StorageError:
    """Say in the ledger why the sweep ended, if it can still be written; a resume needs no such row."""
    with contextlib.suppress(SweepftError):
        recorder.ledger.append("finish", status="interrupted", reason=str(failure))
    return failure


def _sit_out(recorder: Recorder, steering: Steering, searcher: OptunaSearcher) -> bool:
    """Wait while the sweep is paused; whether it goes on then."""
    who = recorder.view.accepted("pause")[-1]["who"]
    recorder.write("finish", status="paused", reason=f"paused by {who}")
    searcher.proposer.close()
    steering.leave()
    return steering.wait()


def _stretch(
    spec: SweepSpec,
    prepared: Prepared,
    run_dir: Path,
    recorder: Recorder,
    searcher: OptunaSearcher,
    scheduler: SweepScheduler,
    steering: Steering,
    winding: Winding,
) -> LedgerCallback:
    """Run trials in one Tuner until there are no more, or somebody wants an end. Returns who wrote their rows."""
    steering.begin(scheduler, searcher.proposer)
    searcher.should_stop = lambda: steering.pausing or steering.closing() is not None
    callback = build_callback(spec, run_dir, recorder, scheduler, searcher, winding, steering)
    finals = Finals(spec, prepared, run_dir, recorder=recorder, winding=winding, reported=searcher.reported)
    searcher.afterwards = lambda busy: "finished" if steering.pausing else finals.ask(busy)
    callback.on_left, steering.finals = finals.left, finals
    tuner = build_tuner(
        spec,
        prepared,
        run_dir,
        searcher=searcher,
        scheduler=scheduler,
        callback=callback,
        winding=winding,
        steering=steering,
    )
    try:
        tuner.fit()
    except Exception:
        failure = recorder.failure or storage_problem(run_dir)
        if failure is None:
            raise
        raise _ended_by_storage(recorder, failure) from None
    if recorder.failure is not None:  # in Tune's last moments, where it keeps errors to itself
        raise _ended_by_storage(recorder, recorder.failure)
    return callback


def _best(run_dir: Path, view: RunView) -> Path | None:
    """Make ``best/``. The sweep is over and its ledger whole: what goes wrong here must not fail it."""
    try:
        return write_best(run_dir, view)
    except Exception as error:
        _log.warning("best/ not written: run=%s error=%r", run_dir, error)
        return None


def _status(winding: Winding, limit: _Limit, view: RunView) -> tuple[str, str | None]:
    if winding.soft:
        return ("failed" if winding.gave_up else "interrupted"), winding.reason
    if limit.reached() is not None:
        return "limit", limit.reached()
    if view.best is None:
        return "failed", "no trial has reached its full budget"
    return "finished", None


class _Limit:
    """``search.limit``: when to propose no more."""

    def __init__(self, spec: SweepSpec, view: RunView) -> None:
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
def _interrupts(winding: Winding, console: Console) -> Iterator[None]:
    """Ctrl-C once ends trials at their next window, twice ends them now. Both leave a run that can be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: Any) -> None:
        winding.ask("stopped by its user" if number == signal.SIGINT else "asked to terminate")
        words = (
            "stopping now" if winding.hard else "stopping at the next windows; press Ctrl-C again to stop now"
        )
        console.print(words, style="yellow", highlight=False)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
