"""Runs a simulated sweep: proposals, decisions, ledger, study and report as in a live sweep, with their CPU time.

Time in the ledger is virtual; the measured CPU seconds are real. They cover the driver, without Ray's own loop and
without training.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.simulation.courses import CurveSource, budget_of
from benchmarks.simulation.trainable import Playback
from benchmarks.simulation.tuner import Clock, VirtualTrial, VirtualTuner
from rich.console import Console

from sweepft.driver.build import (
    build_callback,
    build_search,
    load_prior_sweeps,
    new_proposer,
    read_learned,
    trains_from_scratch,
)
from sweepft.driver.configs import checkpoint_policy
from sweepft.driver.control import SweepControl
from sweepft.driver.enough import EnoughCheck
from sweepft.driver.ledger_listeners import stop_when_nothing_works
from sweepft.driver.progress import Progress
from sweepft.driver.run_folder import asked_row, make_run_folder
from sweepft.driver.scheduler import stop_paused_trials
from sweepft.ledger import EventLog, SweepState, ledger_path
from sweepft.report import write_report
from sweepft.search import STUDY_FILE
from sweepft.slot.jobs import TrialJob, job_of
from sweepft.spec import SweepSpec


@dataclass(frozen=True)
class Mark:
    """Measurements of a simulated sweep at a number of ended trials.

    Attributes:
        trials: Trials that have ended.
        seconds: The driver's CPU seconds so far by part: ``propose`` and ``tell`` (searcher), ``judge`` (scheduler) and
            ``record`` (ledger callback).
        page_seconds: CPU seconds of writing the live report; None if none was written.
        page_mib: Size of that report.
        rss_mib: Peak memory so far.
        ledger_mib, study_mib: Sizes of the files.
        rows: Ledger rows.
    """

    trials: int
    seconds: dict[str, float]
    page_seconds: float | None
    page_mib: float | None
    rss_mib: float
    ledger_mib: float
    study_mib: float
    rows: int

    @property
    def driver_seconds(self) -> float:
        """Sum of all parts, without live reports."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "driver_seconds": self.driver_seconds}


@dataclass(frozen=True)
class Simulated:
    """The result of a simulated sweep.

    Attributes:
        run_dir: Its run folder.
        view: The sweep's state.
        marks: Measurements, the last one at the end.
        reports: Report files by kind.
        report_seconds: CPU seconds of the final report.
        virtual_seconds: Simulated duration.
    """

    run_dir: Path
    view: SweepState
    marks: list[Mark]
    reports: dict[str, Path]
    report_seconds: float
    virtual_seconds: float

    @property
    def driver_ms(self) -> float:
        """CPU milliseconds of the driver per trial, including the final report."""
        return 1000 * (self.marks[-1].driver_seconds + self.report_seconds) / max(1, self.marks[-1].trials)


def simulate(
    spec: SweepSpec,
    out: Path,
    courses: CurveSource,
    *,
    marks: Sequence[int] = (),
    pages: bool = False,
    on_mark: Callable[[Mark], object] | None = None,
) -> Simulated:
    """Run a sweep on a virtual clock; see the module.

    Args:
        spec: As loaded, with ``search.trials`` trials over ``resources.concurrent_trials`` slots; ``search.limit`` is
            ignored.
        out: Run folder; must not hold a run yet.
        courses: Source of the curves.
        marks: Numbers of ended trials at which to measure, besides the end.
        pages: Whether to write the live report at each of these, to measure its cost.
        on_mark: Called with each measurement.

    Raises:
        SpecError: If the budget is not in samples.
        SweepftError, StorageError: If the folder holds a run, or cannot be written.
    """
    budget = budget_of(spec)
    out = out.resolve()
    prior_sweeps = load_prior_sweeps(spec)
    begin = time.time()
    clock = Clock()
    with make_run_folder(out, spec, clock=lambda: begin + clock.now) as ledger:
        view = SweepState()
        event_log = EventLog(ledger, view)
        about = {**courses.about, "slots": spec.resources.concurrent_trials}
        event_log.write(
            "sweep",
            **asked_row(spec),
            budget_samples=budget,
            simulated=about,
            prior_sweeps=prior_sweeps.to_dict(),
            learned=read_learned(spec),
        )
        control = SweepControl()
        search = build_search(spec, event_log, control, new_proposer(spec, out, view), prior_sweeps)
        sets = tuple(h.name for h in spec.data.validation)

        def play(name: str, config: Any, slot: str, warm: bool) -> Playback:
            job = job_of(config)
            assert isinstance(job, TrialJob)
            return Playback(
                courses, job.params, job.train_config, budget=budget,
                rungs=spec.early_stop.rungs, validation=sets, slot=slot, warm=warm,
                reported=job.reported_samples,
            )  # fmt: skip

        callback = build_callback(spec, out, event_log, search, elapsed=clock.elapsed)
        measurements = _Measurements(out, view, {*marks}, pages, on_mark)
        tuner = VirtualTuner(
            search.searcher,
            search.scheduler,
            play,
            slots=spec.resources.concurrent_trials,
            callback=callback,
            after=measurements.after,
            clock=clock,
        )
        measurements.tuner = tuner
        with open(os.devnull, "w") as devnull:
            progress = Progress(view, spec.resources.concurrent_trials, Console(file=devnull))
            event_log.listeners += [progress.on_row, stop_when_nothing_works(control, view)]
            if spec.search.enough is not None:
                event_log.listeners.append(EnoughCheck(spec, spec.search.enough, event_log, control).on_row)
            tuner.fit()
            if not control.stopping:
                stop_paused_trials(
                    event_log,
                    scheduler=search.scheduler,
                    proposer=search.proposer,
                    checkpoints=Path(checkpoint_policy(spec, out).folder),
                    from_scratch=trains_from_scratch(spec),
                    limit=None,
                )
            search.proposer.close()
            callback.close()
            status = "failed" if control.stopping else "finished"
            event_log.write("finish", status=status, reason=control.reason or control.enough)
        measurements.take()
        before = time.process_time()
        reports = write_report(out)
        return Simulated(out, view, measurements.marks, reports, time.process_time() - before, clock.now)


class _Measurements:
    """Takes the measurements at the given numbers of ended trials."""

    def __init__(
        self, out: Path, view: SweepState, at: set[int], pages: bool, on_mark: Callable[[Mark], object] | None
    ) -> None:
        self.tuner: VirtualTuner | None = None
        self.marks: list[Mark] = []
        self._out, self._view, self._at, self._pages, self._on_mark = out, view, at, pages, on_mark
        self._ended = 0

    def after(self, trial: VirtualTrial) -> None:
        self._ended += 1
        if self._ended in self._at:
            self.take(page=self._pages)

    def take(self, page: bool = False) -> None:
        assert self.tuner is not None
        cost = size = None
        seconds = {k: v for k, v in self.tuner.meter.seconds.items() if k != "play"}
        if page:
            begin = time.process_time()
            html = write_report(self._out, live=True, state=self._view)["html"]
            cost, size = time.process_time() - begin, html.stat().st_size / 2**20
        unit = 1024 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes there, in KiB here
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / unit
        ledger, study = (_mib(path) for path in (ledger_path(self._out), self._out / STUDY_FILE))
        mark = Mark(self._ended, seconds, cost, size, peak, ledger, study, self._view.rows)
        self.marks.append(mark)
        if self._on_mark is not None:
            self._on_mark(mark)


def _mib(path: Path) -> float:
    return path.stat().st_size / 2**20
