"""What happens to a trial whose slot is lost, or cannot start it: it runs again elsewhere, within limits.

The death of a coordinator, or of its node, says nothing about the trial. For scheduler and study the trial is still
running; it is proposed again before anything new, and trains without reporting up to its last reported result.

A slot that cannot start a trial for reasons of its machine gives it back. The sweep goes on while other slots train or
other GPUs or nodes have room, and ends, to be resumed, when there are none.
"""

from __future__ import annotations

import contextlib
import pickle
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from sweepft.driver.control import DriverOnly, SweepControl
from sweepft.driver.node_health import NodeHealth
from sweepft.errors import EnvironmentFault, SlotLost, is_storage_error, storage_remedy
from sweepft.ledger import SweepState, TrialState
from sweepft.search.ray_searcher import Outcome
from sweepft.slot.room import Gpu
from sweepft.slot.state import RANKS_REBUILT
from sweepft.spec import Faults

RETRIED: Final = "tried again"
_ELSEWHERE: Final = "waits for another slot"
_SET_ASIDE: Final = "set aside until another trial has started"
_ENDED: Final = "sweep ended"

# Seconds before a trial that has lost two slots is proposed again, doubled for each further one, and at most.
_FIRST_DELAY, _LONGEST_DELAY = 5.0, 60.0
_GIVEN_UP: Final = "given up"

_IN_CREATION: Final = "raised in its creation task"
"""What Ray says of an actor that could not be created."""

_MOST_UNSTARTED: Final = 3
"""Trials that may fail to start before any trial has, until their settings are no longer suspected."""


@dataclass(frozen=True)
class SlotFailure:
    """What ended a slot's coordinator.

    Attributes:
        error: A short name: ``CoordinatorDied``, ``CoordinatorRaised``, ``SlotLost``, ``EnvironmentFault``.
        message: One line; two with the remedy of an ``EnvironmentFault``.
        raised: Whether its own code raised, in which case the same trial may raise again.
        certain: Of an ``EnvironmentFault``: whether the settings are known not to be the cause.
        nodes: Of an ``EnvironmentFault``: Ray's ids of the nodes of the ranks that failed.
        control_failed: Of an ``EnvironmentFault``: whether a trial that has trained before failed there, too.
        gpus: Of an ``EnvironmentFault``: the GPUs of the ranks that failed.
    """

    error: str
    message: str
    raised: bool
    certain: bool = True
    nodes: tuple[str, ...] = ()
    control_failed: bool = False
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class LostSlot:
    """What becomes of a trial whose slot is lost.

    Attributes:
        error, message, action: Of the ledger's ``fault`` row.
        status: ``lost`` (it runs again), ``failed``, or ``interrupted`` (a resumed sweep continues it).
        last: Whether a lost trial runs after all others, not before.
        node: Names of the nodes where it could not start, None if it had started.
        gpu: Ray's ids of the GPUs where it could not start, if these are GPUs of one node.
    """

    error: str
    message: str
    action: str
    status: Literal["lost", "failed", "interrupted"]
    last: bool = False
    node: str | None = None
    gpu: str | None = None


class FaultPolicy(DriverOnly):
    """Decides about trials that lost their slot.

    Args:
        limits: The spec's ``faults``.
        view: The sweep's state; its faults count, those of earlier drivers included.
        control: Of the sweep; gives up when too many slots are lost.
        outcomes: Where the outcome is noted for the searcher.
        health: Of the cluster's nodes in this session.

    Attributes:
        lost_slots: Decisions by job name; the ledger's callback takes them out.
        health: As given.
    """

    def __init__(
        self,
        limits: Faults,
        view: SweepState,
        control: SweepControl,
        outcomes: dict[str, Outcome],
        health: NodeHealth,
    ) -> None:
        self.health = health
        self._limits = limits
        self._view = view
        self._control = control
        self._outcomes = outcomes
        self._lost_in_session = 0
        self._losses: Counter[str] = Counter()
        self._raised: set[tuple[str, str, int]] = set()
        self._unstarted: set[str] = set()
        self._proven: list[TrialState] = []
        self.lost_slots: dict[str, LostSlot] = {}

    def slot_lost(self, name: str, failure: SlotFailure) -> LostSlot:
        """Decide about the job that ran on a lost slot, and note its outcome."""
        self._losses[name] += 1
        decide = self._decide_start if failure.error == EnvironmentFault.__name__ else self._decide
        lost = self.lost_slots[name] = decide(name, failure)
        delay = 0.0
        if lost.status == "lost" and self._losses[name] > 1:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (self._losses[name] - 2))
        self._outcomes[name] = Outcome(lost.status, reason=lost.message, delay=delay, last=lost.last)
        return lost

    def proven(self, but: str) -> TrialState | None:
        """A trial that has taken steps in this sweep, other than ``but``."""
        if len(self._proven) < 2:  # two are enough: one of them is another
            trained = (t for t in self._view.trials.values() if t.reports)
            self._proven = list(islice(trained, 2))
        return next((t for t in self._proven if t.trial_id != but), None)

    def _decide_start(self, name: str, failure: SlotFailure) -> LostSlot:
        """A slot could not start a job, or write its results, whatever the job's settings."""
        health = self.health
        node = ", ".join(map(health.name, failure.nodes)) or None
        gpu = ", ".join(gpu.id for gpu in failure.gpus) if len(failure.nodes) == 1 else ""
        lost = LostSlot(failure.error, failure.message, _ELSEWHERE, "lost", node=node, gpu=gpu or None)
        if self._control.ending:
            return replace(lost, action="left for a resume", status="interrupted")
        again, others = name in self._unstarted, self._others_may_train(name)
        self._unstarted.add(name)
        proven = self.proven(name)
        control = proven.trial_id if proven is not None and failure.control_failed else None
        health.failed(name, failure.nodes, failure.message, control, failure.gpus)
        if proven is not None and not failure.certain:  # by now: it will tell
            return lost
        if failure.certain:
            if others or health.avoid(failure.nodes, failure.gpus):
                # let another trial try what failed
                return replace(lost, last=again and health.room_without(failure.nodes, failure.gpus))
        elif (
            others
            or not (again or len(self._unstarted) >= _MOST_UNSTARTED)
            or (not health.shared and health.avoid_common())
        ):
            return replace(lost, action=_SET_ASIDE, last=True)
        self._control.give_up(f"no trial can go on: {failure.message}{health.describe()}", resumable=True)
        return replace(lost, action=_ENDED, status="interrupted")

    def _others_may_train(self, name: str) -> bool:
        """Whether another trial trains, or starts for the first time in this session."""
        begun = self._view.sessions[-1][0] if self._view.sessions else 0.0
        running = (t for t in self._view.with_status("running") if t.trial_id != name)
        return any(
            t.trial_id not in self._unstarted or (t.reports and t.reports[-1].time >= begun) for t in running
        )

    def _decide(self, name: str, failure: SlotFailure) -> LostSlot:
        self._lost_in_session += 1
        error, message = failure.error, failure.message
        if self._control.ending:
            return LostSlot(error, message, "left for a resume", "interrupted")
        trial = self._view.trials.get(name)
        at = (name, message, 0 if trial is None else trial.samples_seen)
        if failure.raised and at in self._raised:
            return LostSlot(error, f"{message}\n  twice at the same place", _GIVEN_UP, "failed")
        self._raised.add(at)
        if restarts(self._view, name) >= self._limits.per_trial:
            used_up = f"{message}\n  its {self._limits.per_trial} retries (faults.per_trial) are used up"
            return LostSlot(error, used_up, _GIVEN_UP, "failed")
        most = self._limits.per_sweep
        if self._lost_in_session > (10 + len(self._view.trials) if most is None else most):
            self._control.give_up(
                f"faults.per_sweep: {self._lost_in_session} slots were lost, the last one: "
                f"{message.splitlines()[0]}; check the machines, then resume"
            )
            return LostSlot(error, message, "sweep ended", "interrupted")
        return LostSlot(error, message, RETRIED, "lost")


def restarts(view: SweepState, trial_id: str) -> int:
    """How often a trial was restarted after a fault, by new ranks or on another slot, since it was last retried."""
    trial = view.trials.get(trial_id)
    if trial is None:
        return 0
    return sum(f["action"] in (RANKS_REBUILT, RETRIED) and f["seq"] > trial.retried for f in trial.faults)


def read_slot_failure(trial: Trial) -> SlotFailure:
    """What ended the coordinator of a trial that Tune reports as failed."""
    error = None
    with contextlib.suppress(Exception):  # Tune hands the exception on in a file only
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayTaskError):
        cause = error.cause or error
        if type(cause).__name__ == EnvironmentFault.__name__:
            return SlotFailure(
                EnvironmentFault.__name__,
                str(cause),
                raised=False,
                certain=bool(getattr(cause, "certain", True)),
                nodes=tuple(getattr(cause, "nodes", ())),
                control_failed=bool(getattr(cause, "control_failed", False)),
                gpus=tuple(Gpu(*gpu) for gpu in getattr(cause, "gpus", ())),
            )
        if type(cause).__name__ == SlotLost.__name__:
            return SlotFailure(SlotLost.__name__, _one_line(cause), raised=False)
        message = f"the coordinator raised {type(cause).__name__}: {_one_line(cause)}"
        if is_storage_error(cause):
            fault = EnvironmentFault.__name__
            return SlotFailure(fault, f"{message}\n  {storage_remedy(message)}", raised=False)
        return SlotFailure("CoordinatorRaised", message, raised=True)
    if error is not None and _IN_CREATION in str(error):  # it knows no settings yet
        last = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        message = (
            f"the coordinator of a slot cannot start: {last}\n"
            "  make sweepft and its packages usable on every node, then resume"
        )
        return SlotFailure(EnvironmentFault.__name__, message, raised=False)
    message = "the coordinator of the slot died"
    if error is not None:
        message += f": {_one_line(error)}"
    return SlotFailure("CoordinatorDied", message, raised=False)


def _one_line(error: BaseException) -> str:
    """The error's text in one line of bounded length, without Ray's ids of this one process."""
    ids = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:")
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(ids))[:400]
