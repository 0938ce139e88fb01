"""What becomes of a trial whose slot is lost: limits, back-off, and faults of its own."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from support.search_material import BUDGET, make_spec
from sweepft.driver.control import SweepControl
from sweepft.driver.fault_policy import RETRIED, FaultPolicy
from sweepft.errors import SlotLost
from sweepft.ledger import SweepState
from sweepft.search import Proposer
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.slot.trainable import RANKS_REBUILT
from sweepft.spec import Faults


def trial_with(error: Exception | None) -> Any:
    """A trial as Tune hands it on: what it died of lies in a file."""
    file = Path(tempfile.mkdtemp()) / "error.pkl"
    if error is not None:
        file.write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(config={"trial_id": "t000"}, pickled_error_file=str(file))


class Sweep:
    """A searcher with a trial under way, and a ledger's view that holds its faults."""

    def __init__(self, **limits: Any) -> None:
        self.view = SweepState()
        self.searcher = OptunaSearcher(Proposer(make_spec(), None), BUDGET)
        self.control = SweepControl()
        self.fault_policy = FaultPolicy(
            Faults(**limits), self.view, self.searcher, self.control, lambda: self.control.soft
        )
        self.view.apply({"kind": "trial", "trial_id": "t000", "number": 0, "config": {}})

    def fault(self, action: str) -> None:
        self.view.apply({"kind": "fault", "trial_id": "t000", "action": action})

    def lose(self, error: Exception | None = None) -> tuple[str, str]:
        """The slot of the trial is lost; status and action."""
        on = self.fault_policy.lost(trial_with(error or ActorDiedError()))
        loss = self.fault_policy.losses.pop("t000")
        assert on == (loss.status != "failed")
        self.fault(loss.action)
        return loss.status, loss.action


def raised(message: str) -> RayTaskError:
    error = RayTaskError("step", message, OSError(message))
    error.cause = OSError(message)
    return error


def lost_slot() -> RayTaskError:
    error = raised("")
    error.cause = SlotLost("no node has room")
    return error


def test_a_trial_is_tried_again_as_often_as_the_spec_allows() -> None:
    sweep = Sweep(per_trial=2)
    assert [sweep.lose() for _ in range(3)] == [
        ("lost", RETRIED),
        ("lost", RETRIED),
        ("failed", "given up"),
    ]


def test_faults_mended_in_the_slot_count_and_smaller_micro_batches_do_not() -> None:
    sweep = Sweep(per_trial=2)
    sweep.fault(RANKS_REBUILT)
    sweep.fault("micro_batch 4 -> 2")
    assert sweep.lose()[0] == "lost"
    assert sweep.lose()[0] == "failed"


def test_the_first_retry_comes_at_once_and_later_ones_wait_longer_and_longer() -> None:
    sweep = Sweep(per_trial=9)
    sweep.lose()
    assert sweep.searcher.hold_until == 0.0
    waits = []
    for _ in range(6):
        sweep.lose()
        waits.append(round(sweep.searcher.hold_until - time.monotonic()))
    assert waits == [5, 10, 20, 40, 60, 60]


def test_an_error_raised_twice_at_the_same_place_is_the_trials_own() -> None:
    sweep = Sweep(per_trial=9)
    assert sweep.lose(raised("bad row"))[0] == "lost"
    assert sweep.lose(raised("another"))[0] == "lost"
    sweep.searcher.reported["t000"] = 64
    assert sweep.lose(raised("bad row"))[0] == "lost", "the same error elsewhere"
    assert sweep.lose(raised("bad row"))[0] == "failed"


def test_too_many_lost_slots_end_the_sweep_and_fail_no_trial() -> None:
    sweep = Sweep(per_trial=9, per_sweep=1)
    assert sweep.lose() == ("lost", RETRIED)
    assert sweep.lose() == ("interrupted", "sweep ended")
    assert sweep.control.hard
    assert "faults.per_sweep: 2 slots were lost" in (sweep.control.reason or "")


def test_while_the_sweep_is_wound_down_a_lost_trial_is_left_for_the_resume() -> None:
    sweep = Sweep()
    sweep.control.ask("stopped by its user")
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
def test_the_ledger_will_say_what_happened(error: Exception | None, name: str, words: str) -> None:
    sweep = Sweep()
    sweep.fault_policy.lost(trial_with(error))
    loss = sweep.fault_policy.losses["t000"]
    assert loss.error == name
    assert loss.message.startswith(words)
    assert len(loss.message) < 500
