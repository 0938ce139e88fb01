"""When a trial's state is written, where the newest one lies, and whether the trial may still need it.

A parked trial keeps its states. The driver, which alone knows the verdict, leaves a note beside them for the slot; and
one for all slots, when trials shall write their states and be ready to leave.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_AFFORDABLE = 0.05


_COMPLETE = "complete.json"


_PAUSED = "paused"


_PAUSE = "pause"


@dataclass(frozen=True)
class CheckpointPolicy:
    """The policy of ``checkpoint`` in the spec.

    Attributes:
        folder: The run's ``checkpoints/``; a trial's states lie in a folder of its name.
        policy: ``none``, ``rungs``, ``auto``, or ``every`` (windows at least ``seconds`` apart).
        seconds: See ``every``.
    """

    folder: str
    policy: Literal["none", "rungs", "auto", "every"] = "auto"
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
            case "rungs":
                return True
            case "every":
                return trained_seconds >= self.seconds
            case "auto":
                return write_seconds <= _AFFORDABLE * trained_seconds


def newest_checkpoint(folder: Path, at_most: int) -> Path | None:
    """The complete state of a trial that has seen the most samples, but not more than ``at_most``."""
    checkpoints = [p for p in folder.glob("[0-9]*") if (p / _COMPLETE).exists() and int(p.name) <= at_most]
    return max(checkpoints, key=lambda p: int(p.name), default=None)


def remove_checkpoints(folder: Path) -> None:
    """Remove all states of a trial that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def mark_paused(folder: Path) -> None:
    """Note that a trial is parked (the driver's part); without the note its states are removed, no more than that."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PAUSED).touch()


def mark_resumed(folder: Path) -> None:
    """Note that a trial is on a slot (again)."""
    with contextlib.suppress(OSError):
        (folder / _PAUSED).unlink()


def is_paused(folder: Path) -> bool:
    """Whether a trial is parked."""
    return (folder / _PAUSED).exists()


def request_pause(folder: Path, wanted: bool) -> None:
    """Note, for all slots, that trials shall be ready to leave at their next report point; or take the note away.

    Where it cannot be written, trials reach their end before the sweep pauses.

    Args:
        folder: The run's ``checkpoints/``.
        wanted: Whether they shall.
    """
    with contextlib.suppress(OSError):  # read-only, say: a sweep goes on without states
        if wanted:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _PAUSE).touch()
        else:
            (folder / _PAUSE).unlink(missing_ok=True)


def pause_requested(folder: Path) -> bool:
    """Whether trials shall be ready to leave."""
    return (folder / _PAUSE).exists()
