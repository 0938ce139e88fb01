"""What happens to a trial whose slot is lost: limits, back-off, errors of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from sweepft.driver.control import SweepControl
from sweepft.driver.fault_policy import RETRIED, FaultPolicy, read_slot_failure
from sweepft.errors import SlotLost
from sweepft.ledger import SweepState
from sweepft.search.ray_searcher import Outcome
from sweepft.slot.state import RANKS_REBUILT
from sweepft.spec import Faults


def trial_with(error: Exception | None) -> Any:
    """A trial as Tune hands it on: the exception it failed with is in a file."""
    file = Path(tempfile.mkdtemp()) / "error.pkl"
    if error is not None:
        file.write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(pickled_error_file=str(file))


class Sweep:
    """A fault policy, and a sweep's state that holds its faults."""

    def __init__(self, **limits: Any) -> None:
        self.view = SweepState()
        self.control = SweepControl()
        self.outcomes: dict[str, Outcome] = {}
        self.policy = FaultPolicy(Faults(**limits), self.view, self.control, self.outcomes)
        self.view.apply({"kind": "trial", "trial_id": "t000", "number": 0, "params": {}})

    def fault(self, action: str) -> None:
        self.view.apply({"kind": "fault", "trial_id": "t000", "action": action})

    def report(self, samples: int) -> None:
        history = {"step": [1], "samples_seen": [samples]}
        self.view.apply({"kind": "steps", "trial_id": "t000", "history": history})

    def lose(self, error: Exception | None = None) -> tuple[str, str]:
        """The slot of the trial is lost; status and action."""
        failure = read_slot_failure(trial_with(error or ActorDiedError()))
        lost = self.policy.slot_lost("t000", failure)
        assert self.policy.lost_slots.pop("t000") == lost
        assert self.outcomes["t000"].status == lost.status
        self.fault(lost.action)
        return lost.status, lost.action


def raised(message: str) -> RayTaskError:
    error = RayTaskError("step", message, OSError(message))
    error.cause = OSError(message)
    return error


def lost_slot() -> RayTaskError:
    error = raised("")
    error.cause = SlotLost("no node has room")
    return error


def test_fault_policy__retries_up_to_faults_per_trial() -> None:
    sweep = Sweep(per_trial=2)
    assert [sweep.lose() for _ in range(3)] == [
        ("lost", RETRIED),
        ("lost", RETRIED),
        ("failed", "given up"),
    ]


def test_fault_policy__counts_rebuilt_ranks_not_micro_batches() -> None:
    sweep = Sweep(per_trial=2)
    sweep.fault(RANKS_REBUILT)
    sweep.fault("micro_batch 4 -> 2")
    assert sweep.lose()[0] == "lost"
    assert sweep.lose()[0] == "failed"


def test_fault_policy__delay_doubles_from_second_loss() -> None:
    sweep = Sweep(per_trial=9)
    delays = []
    for _ in range(7):
        sweep.lose()
        delays.append(sweep.outcomes["t000"].delay)
    assert delays == [0, 5, 10, 20, 40, 60, 60]


def test_fault_policy__same_error_at_same_place_fails_trial() -> None:
    sweep = Sweep(per_trial=9)
    assert sweep.lose(raised("bad row"))[0] == "lost"
    assert sweep.lose(raised("another"))[0] == "lost"
    sweep.report(64)
    assert sweep.lose(raised("bad row"))[0] == "lost", "the same error elsewhere"
    assert sweep.lose(raised("bad row"))[0] == "failed"


def test_fault_policy__gives_up_sweep_after_faults_per_sweep() -> None:
    sweep = Sweep(per_trial=9, per_sweep=1)
    assert sweep.lose() == ("lost", RETRIED)
    assert sweep.lose() == ("interrupted", "sweep ended")
    assert sweep.control.immediate
    assert "faults.per_sweep: 2 slots were lost" in (sweep.control.reason or "")


def test_fault_policy__leaves_trial_for_resume_while_stopping() -> None:
    sweep = Sweep()
    sweep.control.request_stop("interrupted by user")
    assert sweep.lose() == ("interrupted", "left for a resume")


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (ActorDiedError(), "CoordinatorDied", "the coordinator of the slot died"),
        (None, "CoordinatorDied", "the coordinator of the slot died"),
        (lost_slot(), "SlotLost", "no node has room"),
        (raised("no such file"), "CoordinatorRaised", "the coordinator raised OSError: no such file"),
    ],
)
def test_read_slot_failure__names_the_cause(error: Exception | None, name: str, words: str) -> None:
    failure = read_slot_failure(trial_with(error))
    assert failure.error == name
    assert failure.message.startswith(words)
    assert len(failure.message) < 500
