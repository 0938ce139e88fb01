"""What listens to the ledger while a sweep runs: gives up a sweep in which nothing works, says when no trial meets the
bounds, removes weights that are no longer among the best, and keeps the report up to date.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sweepft.driver.control import SweepControl
from sweepft.errors import LigerMismatch, PackingMismatch
from sweepft.ledger import Row, SweepState, TrialState, excesses, ranking
from sweepft.report import write_report
from sweepft.search import startup_trials
from sweepft.slot.weight_retention import KeepPolicy, standing_of
from sweepft.spec import SweepSpec

_log = logging.getLogger(__name__)

_GIVE_UP_AFTER: Final = 3
"""Failed trials, where no trial has worked."""

_OF_THE_MODEL: Final = (PackingMismatch.__name__, LigerMismatch.__name__)
"""Faults that each trial would have."""

_AFTER_AN_END: Final = 20.0
"""Shortest time between two reports, in seconds, when a trial has ended since."""

_USUAL: Final = 60.0
"""The same when no trial has ended."""

_SHARE: Final = 0.02
"""Largest share of the driver's time for reports: the more one costs, the longer the next one waits."""


def stop_when_nothing_works(control: SweepControl, view: SweepState) -> Callable[[Row], None]:
    """Give up a sweep when its first trials all fail, or its model gives other losses packed or with Liger's kernels:
    the next trials would fail too.
    """
    ended = [t.status for t in view.trials.values() if t.end is not None and t.status != "interrupted"]
    failed, worked = ended.count("failed"), len(ended) > ended.count("failed")

    def on_row(row: Row) -> None:
        nonlocal failed, worked
        if row["kind"] == "fault" and row["error"] in _OF_THE_MODEL:
            control.give_up(row["message"])
        if row["kind"] != "end" or row["status"] == "interrupted":
            return
        failed, worked = failed + (row["status"] == "failed"), worked or row["status"] != "failed"
        if failed >= _GIVE_UP_AFTER and not worked:
            control.give_up(f"the first {failed} trials all failed: {row['reason']}")

    return on_row


def say_when_bounds_are_not_met(
    spec: SweepSpec, view: SweepState, say: Callable[[str], None]
) -> Callable[[Row], None]:
    """Say once, after the start-up trials, that no completed trial meets the bounds, and how near the best comes."""
    first, said = startup_trials(spec.search.trials), not spec.search.subject_to

    def on_row(row: Row) -> None:
        nonlocal said
        if said or row["kind"] != "end" or not view.bounds.limits:
            return
        ranked = [entry.trial for entry in ranking(view) if entry.rank is not None]
        ended = sum(t.end is not None for t in view.search_trials)
        if ranked and ended >= first:
            said = True
            if view.violation(ranked[0]) > 0:
                say(_nearest_to_bounds(view, ranked, can_change=spec.objective.at == "end"))

    return on_row


def _nearest_to_bounds(view: SweepState, ranked: Sequence[TrialState], *, can_change: bool) -> str:
    """That no trial meets the bounds, what the nearest one has, and what to do.

    Args:
        view: The sweep.
        ranked: Completed trials, the nearest first.
        can_change: Whether the bounds may change on resume; not where they choose the evaluation that counts.
    """
    nearest, bounds = ranked[0], {bound.name: bound for bound in view.bounds.entries}
    unit = " beyond" if any(bound.metric for bound in bounds.values()) else " nats above"
    over = excesses(nearest.losses, view.bounds.limits)
    unmet = [bounds[name] for name, excess in over.items() if excess > 0]
    has = []
    for bound in unmet:
        cost = nearest.losses.get(bound.name)
        at = "at least" if bound.sign < 0 else "at most"
        value = "not measured" if cost is None else f"{bound.sign * cost + 0.0:.4g}"
        has.append(f"{bound.name} {value}, allowed {at} {bound.worst:.4g}")
    key = f"search.subject_to.{unmet[0].name}.{'at_most' if unmet[0].at_least is None else 'at_least'}"
    allow = f"with sweepft resume RUN --set {key}=VALUE" if can_change else "in a new run"
    lower = ", or start a sweep of lower learning rates" if any(bound.relative for bound in unmet) else ""
    none = f"none of {len(ranked)} completed trials meets the bounds"
    return (
        f"search.subject_to: {none}; {nearest.trial_id} comes nearest, "
        f"{view.violation(nearest):.4g}{unit} ({'; '.join(has)}). The search continues; allow more {allow}{lower}"
    )


def keep_weights(keep: KeepPolicy, view: SweepState) -> Callable[[Row], None]:
    """Remove the weights of trials that are no longer among the best, as known when a trial or the base model's
    evaluation for the bounds ends.
    """
    ended = (t for t in view.trials.values() if t.replicate_of is None)
    kept = {t.trial_id for t in ended if t.objective is not None}

    def on_row(row: Row) -> None:
        nonlocal kept
        if row["kind"] == "end" and row["status"] == "completed":
            if view.trials[row["trial_id"]].replicate_of is None:
                kept = kept | {row["trial_id"]}
        elif not (row["kind"] == "score" and row["trial_id"] is None and row["name"] in keep.bounded):
            return
        bounds = view.bounds
        standings = {name: standing_of(view, name) for name in kept}
        kept = set(keep.settle(standings, None if bounds.pending else bounds.limits))

    return on_row


class LiveReport:
    """Keeps the report files of a running sweep up to date, as a listener of the event log.

    A report that cannot be written is logged; the sweep continues.

    Args:
        run_dir: The run folder.
        view: The sweep's state.
        write: Writes the files.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        run_dir: Path,
        view: SweepState,
        write: Callable[..., Any] = write_report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._view = view
        self._write = write
        self._clock = clock
        self._last = -math.inf
        self._cost = 0.0
        self._ended = False

    def on_row(self, row: Row) -> None:
        """Take one ledger row; write the report if it is due. Errors of the report are logged."""
        self._ended = self._ended or row["kind"] == "end"
        pause = max(_AFTER_AN_END if self._ended else _USUAL, self._cost / _SHARE)
        begin = self._clock()
        if begin - self._last < pause or row["kind"] == "finish":  # the final report follows
            return
        try:
            self._write(self._run_dir, live=True, state=self._view)
        except Exception as error:
            _log.warning("report not written: run=%s error=%r", self._run_dir, error)
        self._last = self._clock()
        self._cost = self._last - begin
        self._ended = False
