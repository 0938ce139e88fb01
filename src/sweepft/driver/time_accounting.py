"""Accounts for every second of slot time, by phase.

A sweep has lanes, one for each concurrent slot. A lane's clock runs from the start of the sweep to its end, whichever
slot is on it. Time that a slot does not report as a trial's is the lane's own: ``startup`` before its first trial,
then ``idle``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class _Lane:
    """A lane that is accounted for up to ``since`` and works on ``trial``."""

    since: float
    trial: str | None = None


class TimeAccounting:
    """Time between the trials of each slot.

    Args:
        begin: Start of the sweep, in seconds of any clock.
        lanes: Concurrent slots.
    """

    def __init__(self, begin: float, lanes: int) -> None:
        self._begin = begin
        self._lanes = lanes
        self._held: dict[str, _Lane] = {}
        self._free: list[float] = []

    def result(
        self, slot: str, trial: str, now: float, phases: Mapping[str, float]
    ) -> tuple[str, float] | None:
        """Take a result. Returns the phase and the seconds before it that belong to no trial, or None.

        Args:
            slot: The slot; a new one takes a free lane, or that of the slot which has been silent the longest.
            trial: The trial or evaluation job.
            now: When the result came.
            phases: The trial's own seconds since its last result.
        """
        lane = self._held.get(slot)
        new = lane is None
        if lane is None:
            lane = self._held[slot] = _Lane(self._vacant())
        reported = sum(phases.values())
        first = lane.trial != trial
        seconds = max(0.0, now - lane.since - reported) if first else 0.0
        # Not `now`: a result may come late, and its delay is accounted for with a later one, once.
        lane.since += seconds + reported
        lane.trial = trial
        return ("startup" if new else "idle", seconds) if first else None

    def leave(self, trial: str) -> None:
        """A trial has left its slot; if it resumes, even on the same slot, the time until then is not its own."""
        for lane in self._held.values():
            if lane.trial == trial:
                lane.trial = None

    def lose(self, slot: str, now: float) -> float:
        """A slot is lost, and its lane free. Returns the seconds since its last result."""
        lane = self._held.pop(slot, None)
        if lane is None:  # its lane was given to another slot, with the time since then
            return 0.0
        self._free.append(now)
        return max(0.0, now - lane.since)

    def close(self, now: float) -> dict[str, float]:
        """The sweep is over. Returns the seconds of each slot that are not accounted for yet."""
        rest = {slot: max(0.0, now - lane.since) for slot, lane in self._held.items()}
        for lane in self._held.values():
            lane.since = now
        return rest

    def _vacant(self) -> float:
        """The time from which a lane is free for a new slot."""
        if not self._free and len(self._held) >= self._lanes:
            silent = min(self._held, key=lambda slot: self._held[slot].since)
            self._free.append(self._held.pop(silent).since)
        return self._free.pop(0) if self._free else self._begin
