"""When a trial's state is written, and where the newest one lies."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["StatePlan", "newest_state", "remove_states"]

_AFFORDABLE = 0.05
_COMPLETE = "complete.json"


@dataclass(frozen=True)
class StatePlan:
    """The policy of ``checkpoint`` in the spec.

    Attributes:
        folder: The run's ``checkpoints/``; a trial's states lie in a folder of its name.
        policy: ``none``, ``windows``, ``auto``, or ``every`` (windows at least ``seconds`` apart).
        seconds: See ``every``.
    """

    folder: str
    policy: Literal["none", "windows", "auto", "every"] = "auto"
    seconds: float = 0.0

    def due(self, trained_seconds: float, write_seconds: float) -> bool:
        """Whether to write at this window.

        Args:
            trained_seconds: Training since the last state (or the start): what a fault now would cost again.
            write_seconds: What writing took last time, or is expected to take.
        """
        match self.policy:
            case "none":
                return False
            case "windows":
                return True
            case "every":
                return trained_seconds >= self.seconds
            case "auto":
                return write_seconds <= _AFFORDABLE * trained_seconds


def newest_state(folder: Path, at_most: int) -> Path | None:
    """The complete state of a trial that has seen the most samples, but not more than ``at_most``."""
    states = [p for p in folder.glob("[0-9]*") if (p / _COMPLETE).exists() and int(p.name) <= at_most]
    return max(states, key=lambda p: int(p.name), default=None)


def remove_states(folder: Path) -> None:
    """Remove all states of a trial that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
