"""Winding a sweep down: by its user (Ctrl-C), or because the run folder can no longer be written."""

from __future__ import annotations

from typing import Any

from ray import tune

__all__ = ["Winding", "WindingStopper"]


class Winding:
    """How far a sweep is being wound down.

    Attributes:
        soft: No new trials; running ones end at their next window.
        hard: Everything ends now.
        reason: Why, as a sentence.
    """

    def __init__(self) -> None:
        self.soft = False
        self.hard = False
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """First call: soft. Second call: hard."""
        self.hard = self.soft
        self.soft = True
        self.reason = reason


class WindingStopper(tune.Stopper):
    """Ray's view of it: asked at each result and each turn of Tune's loop."""

    def __init__(self, winding: Winding) -> None:
        self._winding = winding

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to end this trial now."""
        return self._winding.soft and "window" in result

    def stop_all(self) -> bool:
        """Whether to end all trials now."""
        return self._winding.hard
