"""The state of a running sweep: whether it searches, pauses, evaluates its finalists, or stops.

``SweepControl`` is the one state machine. Signals, commands, limits and the fault policy write it; the searcher, the
scheduler and Tune's stopper read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from sweepft.ledger import SweepState
from sweepft.spec import SweepSpec

Phase: TypeAlias = Literal["searching", "pausing", "final_evaluation", "stopping", "done"]


class DriverOnly:
    """An object of the driver process; its pickle is empty.

    Tune pickles searcher, scheduler and callbacks for a restore of its own. sweepft restores from the ledger instead,
    and what these objects refer to (files, sockets, the state of a long sweep) must not be pickled.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class KnownBounds(DriverOnly):
    """The bounds of a running sweep, with the base model's losses and scores once they are measured.

    Args:
        view: State of the sweep.
    """

    def __init__(self, view: SweepState) -> None:
        self._view = view

    @property
    def limits(self) -> dict[str, float]:
        """Largest cost allowed by validation set or task."""
        return self._view.bounds.limits

    @property
    def base(self) -> dict[str, float]:
        """The base model's losses, as far as they are known."""
        return self._view.bounds.base

    @property
    def noise(self) -> dict[str, float]:
        """Standard errors of differences from the base model, by task."""
        return self._view.bounds.noise


class Limit:
    """``search.limit``: when to propose no more trials.

    Args:
        spec: Of the sweep.
        view: Its state, which holds the slot time used.
    """

    def __init__(self, spec: SweepSpec, view: SweepState) -> None:
        self._limit = spec.search.limit
        self._gpus = spec.resources.gpus_per_worker > 0
        self._view = view
        self._started = time.monotonic()

    def reached(self) -> str | None:
        """The limit that is reached, as a sentence, or None. Hours count from the start of this driver."""
        if self._limit is None:
            return None
        hours = (time.monotonic() - self._started) / 3600
        if self._limit.hours is not None and hours >= self._limit.hours:
            return f"search.limit.hours: {self._limit.hours:g} hours are over"
        phases = self._view.gpu_phases if self._gpus else self._view.phases
        spent = sum(phases.values()) / 3600
        if self._limit.gpu_hours is not None and spent >= self._limit.gpu_hours:
            return f"search.limit.gpu_hours: {self._limit.gpu_hours:g} GPU-hours are used"
        return None


class SweepControl(DriverOnly):
    """The state machine of one sweep.

    Args:
        limit: Why no more trials are proposed, or None; asked whenever it matters.

    Attributes:
        phase: ``searching``; ``pausing`` (trials leave their slots, none starts); ``final_evaluation`` (the finalists
            are chosen); ``stopping``; ``done``.
        reason: Why the sweep stops, as a sentence.
        immediate: Whether running trials are ended at once, not at their next rung.
        gave_up: Whether it stops because continuing is useless.
        resumable: Whether it gave up until something outside the sweep is mended.
        paused_in_session: Whether a pause has ended trials of this session: what follows needs a new session.
        enough: Why the search needs no more trials (``search.enough``), as a sentence; None while it does. Trials that
            have begun run to their ends.
    """

    def __init__(self, limit: Callable[[], str | None] = lambda: None) -> None:
        self.phase: Phase = "searching"
        self.reason: str | None = None
        self.immediate = False
        self.gave_up = self.resumable = False
        self.paused_in_session = False
        self.enough: str | None = None
        self.limit_reached = limit
        self._trial_stops: dict[str, str] = {}

    # ----- transitions -----------------------------------------------------------------------------------

    def begin_session(self) -> None:
        """A Tuner starts."""
        self.paused_in_session = False
        if not self.stopping:
            self.phase = "searching"

    def request_stop(self, reason: str) -> None:
        """Stop gracefully: trials end at their next rung. A second request stops at once."""
        self.immediate = self.stopping
        self.phase, self.reason = "stopping", reason

    def give_up(self, reason: str, *, resumable: bool = False) -> None:
        """Stop at once, since continuing is useless, or useless until something outside the sweep is mended."""
        self.phase, self.reason = "stopping", reason
        self.immediate = self.gave_up = True
        self.resumable = resumable

    def request_pause(self) -> None:
        """Have running trials leave their slots, and start none."""
        if not self.stopping:
            self.phase, self.paused_in_session = "pausing", True

    def end_pause(self) -> None:
        """Search again."""
        if self.phase == "pausing":
            self.phase = "searching"

    def begin_final_evaluation(self) -> None:
        """The search is over and its finalists are chosen."""
        if self.phase == "searching":
            self.phase = "final_evaluation"

    def finish(self) -> None:
        """The sweep is over; how it ended stays known."""
        if not self.stopping:
            self.phase = "done"

    # ----- questions -------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the sweep stops, gracefully or at once."""
        return self.phase == "stopping"

    @property
    def ending(self) -> bool:
        """Whether running trials leave their slots: nothing is started, and no lost trial is restarted."""
        return self.phase in ("stopping", "pausing")

    def may_propose(self) -> bool:
        """Whether the search may start trials."""
        return self.phase == "searching" and self.limit_reached() is None

    def closed(self) -> str | None:
        """Why no trials are added to the search any more, or None."""
        match self.phase:
            case "stopping":
                return self.reason
            case "final_evaluation":
                return "the finalists are chosen"
            case "done":
                return "the sweep is over"
        return self.enough or self.limit_reached()

    def ends_at(self, result: Mapping[str, Any]) -> bool:
        """Whether a trial that reports this result is to leave its slot now.

        Stopping waits for the next rung or the next scored item; pausing for a result whose checkpoint is written.
        """
        ready = "scored" in result or "paused" in result
        return (self.phase == "pausing" and ready) or (self.stopping and (ready or "rung" in result))

    # ----- single trials ---------------------------------------------------------------------------------

    def request_trial_stop(self, trial_id: str, reason: str) -> None:
        """End a running trial at its next report point."""
        self._trial_stops[trial_id] = reason

    def take_trial_stop(self, trial_id: str) -> str | None:
        """The reason to end this trial now, once; None without a request."""
        return self._trial_stops.pop(trial_id, None)
