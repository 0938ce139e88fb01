"""When trials are checkpointed, which checkpoint is the newest, and whether a trial still needs its own.

A paused trial keeps its checkpoints. The driver, which knows the decision, leaves a mark beside them for the slot.
Another mark asks all slots to checkpoint their trials, so that the sweep can pause.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweepft.files import atomic_write

_AFFORDABLE = 0.05  # of the training time that a fault would cost again
_COMPLETE = "complete.json"
_PAUSED = "paused"
_PAUSE = "pause"
_EXEMPT = ".exempt"


@dataclass(frozen=True)
class CheckpointPolicy:
    """The policy of ``checkpoint`` in the spec.

    Attributes:
        folder: The run's ``checkpoints/``; each trial has a folder of its name there.
        policy: ``none``, ``rungs``, ``auto``, or ``every`` (rungs at least ``seconds`` apart).
        seconds: See ``every``.
    """

    folder: str
    policy: Literal["none", "rungs", "auto", "every"] = "auto"
    seconds: float = 0.0

    def due(self, trained_seconds: float, stalled: float, written: float) -> bool:
        """Whether to write a checkpoint at this rung.

        Args:
            trained_seconds: Training since the last checkpoint (or the start), which a fault would cost again.
            stalled: Seconds for which training waited last time, or is expected to wait.
            written: Seconds of the write behind it. One that takes longer than the training since the last one would
                make the next one wait.
        """
        match self.policy:
            case "none":
                return False
            case "rungs":
                return True
            case "every":
                return trained_seconds >= self.seconds
            case "auto":
                return stalled <= _AFFORDABLE * trained_seconds and written <= trained_seconds


def newest_checkpoint(folder: Path, at_most: int) -> Path | None:
    """The complete checkpoint with the most samples, but not more than ``at_most``."""
    checkpoints = [p for p in folder.glob("[0-9]*") if (p / _COMPLETE).exists() and int(p.name) <= at_most]
    return max(checkpoints, key=lambda p: int(p.name), default=None)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a trial."""
    shutil.rmtree(folder, ignore_errors=True)


def mark_paused(folder: Path) -> None:
    """Mark a trial as paused, as the driver does. If the mark cannot be written, its checkpoints are lost, nothing
    else.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / _PAUSED, "", sync=False)


def mark_resumed(folder: Path) -> None:
    """Remove the mark: the trial is on a slot."""
    with contextlib.suppress(OSError):
        (folder / _PAUSED).unlink()


def is_paused(folder: Path) -> bool:
    """Whether a trial is paused."""
    return (folder / _PAUSED).exists()


def mark_exempt(folder: Path) -> None:
    """Mark a trial as exempt from early stopping, as the driver does at a user's command.

    Args:
        folder: Of the trial's checkpoints. The mark lies beside it, where it outlives them.
    """
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(folder.with_name(folder.name + _EXEMPT), "", sync=False)


def remove_exemption(folder: Path) -> None:
    """Remove that mark: the trial has ended."""
    with contextlib.suppress(OSError):
        folder.with_name(folder.name + _EXEMPT).unlink(missing_ok=True)


def is_exempt(folder: Path) -> bool:
    """Whether a trial was exempted from early stopping while it ran."""
    return folder.with_name(folder.name + _EXEMPT).exists()


def request_pause(folder: Path, wanted: bool) -> None:
    """Ask all slots to checkpoint their trials at the next report point, or withdraw the request.

    If the mark cannot be written, trials run to their end before the sweep pauses.

    Args:
        folder: The run's ``checkpoints/``.
        wanted: Whether the sweep is to pause.
    """
    with contextlib.suppress(OSError):  # read-only, for example: a sweep works without checkpoints
        if wanted:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / _PAUSE, "", sync=False)
        else:
            (folder / _PAUSE).unlink(missing_ok=True)


def pause_requested(folder: Path) -> bool:
    """Whether trials are to be checkpointed at their next report point."""
    return (folder / _PAUSE).exists()
