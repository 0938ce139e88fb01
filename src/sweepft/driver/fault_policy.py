"""Trials that lost their slot: brought back to where they had reported, within limits, as if nothing had happened.

One idea: the death of a coordinator, or of the node under it, says nothing about its trial. For scheduler and study the
trial runs on; it comes back as a proposal, before anything new, and trains silently to where it had reported.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from sweepft.driver.control import SweepControl, is_aside
from sweepft.errors import SlotLost
from sweepft.ledger import SweepState
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.slot.trainable import RANKS_REBUILT
from sweepft.spec import Faults

RETRIED = "tried again"


_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0


"""Seconds before a trial that has lost its slot twice comes back (doubled each time), and at most."""


@dataclass(frozen=True)
class LostSlot:
    """How a slot was lost, and what becomes of its trial.

    Attributes:
        error, message: As the ledger's ``fault`` row has them.
        action: What is done about it, in the same row.
        status: ``lost`` (it comes back), ``failed``, or ``interrupted`` (it goes on when the sweep is resumed).
    """

    error: str
    message: str
    action: str
    status: Literal["lost", "failed", "interrupted"]


class FaultPolicy:
    """Decides about trials that lost their slot.

    Args:
        limits: The spec's ``faults``.
        view: Of the sweep; the faults in it count, those of earlier runs of the driver too.
        searcher: Holds the trials that come back.
        winding: Of the sweep; ended there when too many slots are lost.
        ending: Whether the sweep is being wound down or paused: then no trial comes back.

    Attributes:
        losses: Undrained decisions by trial id; who writes them to the ledger takes them out.
    """

    def __init__(
        self,
        limits: Faults,
        view: SweepState,
        searcher: OptunaSearcher,
        control: SweepControl,
        ending: Callable[[], bool],
    ) -> None:
        self._limits = limits
        self._view = view
        self._searcher = searcher
        self._control = control
        self._ending = ending
        self._slots = 0
        self._of_trial: Counter[str] = Counter()
        self._raised: set[tuple[str, str, int]] = set()
        self.losses: dict[str, LostSlot] = {}

    def __getstate__(self) -> dict[str, object]:
        # Tune pickles the scheduler, which knows us, for its own restore, which we do not use.
        return {}

    def lost(self, trial: Trial) -> bool:
        """Decide about a trial whose coordinator died or raised; the searcher is told. True unless it has failed."""
        name = str(trial.config["trial_id"])
        error, message, raised = _cause(trial)
        self._slots += 1
        self._of_trial[name] += 1
        if is_aside(trial) and name in self._view.trials:  # the searcher is told nothing of it
            self._searcher.reported[name] = self._view.trials[name].samples_seen
        loss = self._decide(name, error, message, raised)
        self.losses[name] = loss
        self._searcher.set_outcome(name, loss.status, None, loss.message)
        if loss.status == "lost" and self._of_trial[name] > 1:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (self._of_trial[name] - 2))
            self._searcher.hold_until = time.monotonic() + pause
        return loss.status != "failed"

    def faults(self, name: str) -> int:
        """How often a trial was brought back so far, on its slot or another."""
        trial = self._view.trials.get(name)
        return 0 if trial is None else sum(f["action"] in (RANKS_REBUILT, RETRIED) for f in trial.faults)

    def _decide(self, name: str, error: str, message: str, raised: bool) -> LostSlot:
        if self._ending():
            return LostSlot(error, message, "left for a resume", "interrupted")
        at = (name, message, self._searcher.reported.get(name, 0))
        if raised and at in self._raised:
            return LostSlot(error, f"{message}\n  twice at the same place", "given up", "failed")
        self._raised.add(at)
        if self.faults(name) >= self._limits.per_trial:
            words = f"{message}\n  its {self._limits.per_trial} retries (faults.per_trial) are used up"
            return LostSlot(error, words, "given up", "failed")
        most = self._limits.per_sweep
        if self._slots > (10 + len(self._view.trials) if most is None else most):
            self._control.give_up(
                f"faults.per_sweep: {self._slots} slots were lost, the last one: {message.splitlines()[0]}; "
                "see to the machines, then resume"
            )
            return LostSlot(error, message, "sweep ended", "interrupted")
        return LostSlot(error, message, RETRIED, "lost")


def _cause(trial: Trial) -> tuple[str, str, bool]:
    """Name and words of what ended a coordinator, and whether it was raised by its own code."""
    error = None
    with contextlib.suppress(Exception):  # Tune hands it on in a file of its own only
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayTaskError):
        cause = error.cause or error
        if type(cause).__name__ == SlotLost.__name__:
            return SlotLost.__name__, _line(cause), False
        return "CoordinatorRaised", f"the coordinator raised {type(cause).__name__}: {_line(cause)}", True
    words = "the coordinator of the slot died"
    return "CoordinatorDied", words if error is None else f"{words}: {_line(error)}", False


def _line(error: BaseException) -> str:
    """What an error says, in one line of bounded length; Ray's ids of this one death are left out."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    kept = [
        line
        for line in lines
        if not line.startswith(("class_name:", "actor_id:", "pid:", "namespace:", "ip:"))
    ]
    return " ".join(kept)[:400]
