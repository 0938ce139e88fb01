"""Sends ledger rows to the trackers, once or while a run goes on: each step once, and a tracker that fails is dropped.

The position of a tracker is written after its data are safe. After a crash, at most the rows since the last written
position are sent again; trackers recognise them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sweepft.bounded_json import read_json_file
from sweepft.errors import LeaseLost, Problem, SpecError
from sweepft.files import atomic_write, inside
from sweepft.ledger import LedgerTail, Row, SweepState, TrialState
from sweepft.ledger.lock import WriterLock
from sweepft.redact import redact
from sweepft.spec import Track, load
from sweepft.trackers.trackers import Tracker, eval_point, make_trackers, points_of, step_points


def track_run(run_dir: Path, overrides: Sequence[str] = ()) -> dict[str, str | None]:
    """Send what the trackers of a run do not have yet.

    Args:
        run_dir: The run folder.
        overrides: ``track.wandb={}`` and the like, over the run's ``spec.yaml``; without any, the spec in force.
    Returns:
        By tracker, why it was dropped, or None if it is up to date.
    Raises:
        SpecError: If the spec names no tracker, or an override is wrong.
        LedgerError: If there is no ledger, or it is damaged.
        LedgerLocked: If another process is tracking this run.
    """
    makers = make_trackers(_track_section(run_dir, overrides), run_dir)
    with TrackerFeed(run_dir, makers) as feed:
        while feed.step():
            pass
    return {name: feed.failures.get(name) for name in makers}


def follow(run_dir: Path, over: Callable[[], bool]) -> None:
    """Send the rows of a growing ledger.

    Args:
        run_dir: The run folder.
        over: Waits; returns whether the run is over.
    """
    with TrackerFeed(run_dir, make_trackers(_track_section(run_dir, ()), run_dir)) as feed:
        last = False
        while not last:
            last = over()
            while feed.step():
                pass


def _track_section(run_dir: Path, overrides: Sequence[str]) -> Track:
    if overrides:
        track = load(run_dir / "spec.yaml", overrides, check_files=False).track
    else:
        track = Track.model_validate(SweepState.load(run_dir).spec.get("track", {}))
    if not track.names:
        rule, remedy = "names no tracker", "for example --set track.tensorboard=true"
        raise SpecError([Problem(str(run_dir / "spec.yaml"), "track", rule, remedy)])
    return track


_log = logging.getLogger(__name__)


class TrackerFeed:
    """Sends the ledger rows that trackers do not have yet. Close it, or use ``with``.

    Args:
        run_dir: The run folder; ``track/`` in it holds the position of each tracker.
        makers: Trackers by name.
    Raises:
        LedgerLocked: If another process tracks this run.
    """

    def __init__(self, run_dir: Path, makers: Mapping[str, Callable[[], Tracker]]) -> None:
        inside(run_dir, "track").mkdir(mode=0o700, exist_ok=True)
        self._lock = WriterLock(inside(run_dir, "track", "lock"))
        self._state = inside(run_dir, "track", "state.json")
        self._sweep = SweepState()
        self._tail = LedgerTail(run_dir)
        self._positions = _read(self._state).get("trackers", {})
        self._lanes = [
            _Lane(name, make, self._positions.get(name, {}).get("next", 0)) for name, make in makers.items()
        ]

    def __enter__(self) -> TrackerFeed:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def failures(self) -> dict[str, str]:
        """Why trackers were dropped, by name."""
        return {lane.name: lane.failure for lane in self._lanes if lane.failure is not None}

    def step(self) -> bool:
        """Send the next rows; returns whether there were any. Raises LeaseLost where another process has taken over."""
        self._lock.check()
        rows = self._tail.read()
        for row in rows:
            self._sweep.apply(row)
            for lane in self._lanes:
                lane.take(row, self._sweep)
        if rows:
            self._save()
        return bool(rows)

    def close(self) -> None:
        """Close open trials in the trackers, and release the run's lock."""
        for lane in self._lanes:
            lane.close(self._sweep)
        with contextlib.suppress(LeaseLost):
            self._lock.check()
            self._save()
        self._lock.release()

    def _save(self) -> None:
        for lane in self._lanes:
            lane.flush()
            self._positions[lane.name] = {"next": lane.safe, "failure": lane.failure}
        atomic_write(self._state, json.dumps({"process": os.getpid(), "trackers": self._positions}, indent=1))


def failures(run_dir: Path, process: int) -> dict[str, str]:
    """Why trackers of a run were dropped by this process, by name; empty until it has saved its state."""
    state = _read(run_dir / "track" / "state.json")
    if state.get("process") != process:
        return {}
    return {name: lane["failure"] for name, lane in state["trackers"].items() if lane["failure"]}


class _Lane:
    """One tracker and its position; ``safe`` is the first row that may have to be sent again."""

    def __init__(self, name: str, make: Callable[[], Tracker], begin: int) -> None:
        self.name = name
        self.failure: str | None = None
        self.safe = begin
        self._make = make
        self._tracker: Tracker | None = None
        self._next = begin
        self._open: dict[str, int] = {}
        self._sent: dict[tuple[str, str], int] = {}

    def take(self, row: Row, sweep: SweepState) -> None:
        """Send a row, or record that it was sent before."""
        if self.failure is None and row["seq"] >= self._next:
            self._try(partial(self._row, row, sweep.trials.get(row.get("trial_id") or ""), sweep))
            self._next = row["seq"] + 1
        elif row["kind"] in ("steps", "eval"):
            self._sent[row["trial_id"], row["kind"]] = _last_step(row)

    def flush(self) -> None:
        self._try(self._flush)

    def _flush(self) -> None:
        all_safe = self._tracker is None or self._tracker.flush()
        self.safe = self._next if all_safe else min(self._open.values(), default=self._next)

    def close(self, sweep: SweepState) -> None:
        self._try(partial(self._close_all, sweep))

    def _try(self, act: Callable[[], None]) -> None:
        if self.failure is not None:
            return
        try:
            act()
        except Exception as error:
            self.failure = redact(f"{type(error).__name__}: {error}")
            _log.warning("tracking stopped: tracker=%s error=%s", self.name, self.failure)

    def _row(self, row: Row, trial: TrialState | None, sweep: SweepState) -> None:
        kind = row["kind"]
        if kind == "finish":
            self._close_all(sweep)
        elif trial is None:
            return
        elif kind == "end":
            self._opened(trial, sweep)
            self._close(trial)
        elif kind == "decision" and row["action"] != "continue":
            self._opened(trial, sweep).decision(trial, row)
            if row["action"] == "pause":
                self._close(trial)
        elif kind in ("steps", "eval"):
            after = self._sent.get((trial.trial_id, kind), -1)
            found = [eval_point(row)] if kind == "eval" else step_points(row)
            new = [p for p in found if p.step > after]  # after a crash the last result is repeated
            if new:
                self._opened(trial, sweep).send(trial, new)
                self._sent[trial.trial_id, kind] = new[-1].step

    def _opened(self, trial: TrialState, sweep: SweepState) -> Tracker:
        if self._tracker is None:
            self._tracker = self._make()
        name = trial.trial_id
        if name not in self._open:
            step, validation = (self._sent.get((name, kind), -1) for kind in ("steps", "eval"))
            before = [p for p in points_of(trial) if p.step <= (validation if p.validation else step)]
            self._tracker.open(trial, sweep, before)
            self._open[name] = self._next
        return self._tracker

    def _close_all(self, sweep: SweepState) -> None:
        for name in sorted(self._open):
            self._close(sweep.trials[name])

    def _close(self, trial: TrialState) -> None:
        if trial.trial_id in self._open and self._tracker is not None:
            del self._open[trial.trial_id]
            self._tracker.close(trial)


def _last_step(row: Row) -> int:
    return int(row["history"]["step"][-1] if row["kind"] == "steps" else row["step"])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json_file(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
