"""Whose time it was: every second of a slot goes to a trial's phase or to nobody, and none is lost or told twice.

One idea: a sweep has places for slots. A place's clock runs from the begin of the sweep to its end, whichever slot
holds it; what a slot did not report as a trial's is the place's own: ``startup`` up to its first trial, then ``idle``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class _Place:
    """Accounted for up to ``since``; ``trial`` is what it works on."""

    since: float
    trial: str | None = None


class TimeAccounting:
    """Time between the trials of each slot.

    Args:
        begin: When the sweep began, in seconds of any clock.
        places: Slots at once, at most.
    """

    def __init__(self, begin: float, places: int) -> None:
        self._begin = begin
        self._places = places
        self._held: dict[str, _Place] = {}
        self._free: list[float] = []

    def result(
        self, slot: str, trial: str, now: float, phases: Mapping[str, float]
    ) -> tuple[str, float] | None:
        """A result has come. Returns the phase and seconds since the slot's last one that are no trial's, or None.

        Args:
            slot: Which slot; one never seen takes a place that was left, or the one unheard of for longest.
            trial: Whose result.
            now: When it came.
            phases: The trial's own seconds since its last result.
        """
        place = self._held.get(slot)
        new = place is None
        if place is None:
            place = self._held[slot] = _Place(self._vacant())
        told = sum(phases.values())
        first = place.trial != trial
        seconds = max(0.0, now - place.since - told) if first else 0.0
        # Not `now`: a result may come late, and what it was late by is told with a later one, once.
        place.since += seconds + told
        place.trial = trial
        return ("startup" if new else "idle", seconds) if first else None

    def leave(self, trial: str) -> None:
        """A trial is over for now; should it come back, even to the same slot, the time until then is the slot's."""
        for place in self._held.values():
            if place.trial == trial:
                place.trial = None

    def lose(self, slot: str, now: float) -> float:
        """A slot that has reported is gone; its place is free. Returns the seconds since its last result."""
        place = self._held.pop(slot, None)
        if place is None:  # its place was given away already, with the time since then
            return 0.0
        self._free.append(now)
        return max(0.0, now - place.since)

    def close(self, now: float) -> dict[str, float]:
        """The sweep is over: seconds of each slot that are not told yet."""
        rest = {slot: max(0.0, now - place.since) for slot, place in self._held.items()}
        for place in self._held.values():
            place.since = now
        return rest

    def _vacant(self) -> float:
        """Since when a place has been free for a new slot."""
        if not self._free and len(self._held) >= self._places:
            silent = min(self._held, key=lambda slot: self._held[slot].since)
            self._free.append(self._held.pop(silent).since)
        return self._free.pop(0) if self._free else self._begin
