"""Trials that failed before their first report, counted by the place where they did: a node, or a GPU."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)


@dataclass(frozen=True)
class _Failure:
    """A trial that failed at a place; ``among`` places, of which any may be the cause."""

    reason: str
    among: int


class StartFailures(Generic[Place]):
    """The trials that failed at each place.

    Attributes:
        common: Places that took part in each failure since the last report of a trial; None without a failure.
    """

    def __init__(self) -> None:
        self.common: frozenset[Place] | None = None
        self._found: dict[Place, dict[str, _Failure]] = {}

    def add(self, trials: Iterable[str], places: Sequence[Place], reason: str) -> None:
        """Trials failed at one of these places, or at all of them.

        Args:
            trials: Their names.
            places: Where; empty where it is unknown.
            reason: One line.
        """
        for place in places:
            for trial in trials:
                self._found.setdefault(place, {})[trial] = _Failure(reason, len(places))
        if places:
            found = frozenset(places)
            self.common = found if self.common is None else self.common & found

    def withdraw(self, trial: str) -> bool:
        """Forget a trial; whether it had failed anywhere."""
        there = [failures for failures in self._found.values() if trial in failures]
        for failures in there:
            del failures[trial]
        return bool(there)

    def clear(self, places: Iterable[Place]) -> bool:
        """Forget what failed at these places; whether anything had."""
        found = [self._found.pop(place, None) for place in places]
        return any(found)

    def clear_doubtful(self, places: Iterable[Place]) -> bool:
        """Forget failures at these places for which another place may be the cause; whether there were any."""
        doubtful = [p for p in places if any(found.among > 1 for found in self._found.get(p, {}).values())]
        for place in doubtful:
            self._found[place] = {t: found for t, found in self._found[place].items() if found.among == 1}
        return bool(doubtful)

    def trials(self, place: Place) -> list[str]:
        """Those that failed at a place, in the order of their first failure."""
        return list(self._found.get(place, ()))

    def certain(self, place: Place) -> int:
        """Trials for which no other place may be the cause."""
        return sum(found.among == 1 for found in self._found.get(place, {}).values())

    def places(self) -> list[Place]:
        """Where trials failed, the most first."""
        found = [place for place, failures in self._found.items() if failures]
        return sorted(found, key=lambda place: -len(self._found[place]))

    def words(self, place: Place) -> str:
        """Which trials failed at a place where some did, and why the last one did."""
        *others, last = self._found[place]
        trials = f"{', '.join(others)} and {last}" if others else last
        return f"{trials} failed there before the first report: {self._found[place][last].reason}"
