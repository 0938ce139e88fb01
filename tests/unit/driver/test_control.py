"""The state machine of a sweep: who may start what, and when trials leave their slots."""

from __future__ import annotations

import pytest
from ray import cloudpickle

from support.specs import spec
from sweepft.driver.control import Limit, SweepControl
from sweepft.driver.scheduler import SweepStopper
from sweepft.ledger import SweepState

REPORT, RUNG, READY, SCORED = {"step": 1}, {"rung": 0.5}, {"paused": True}, {"scored": {}}


def in_phase(phase: str) -> SweepControl:
    control = SweepControl()
    match phase:
        case "pausing":
            control.request_pause()
        case "final_evaluation":
            control.begin_final_evaluation()
        case "stopping":
            control.request_stop("interrupted by user")
        case "done":
            control.finish()
    assert control.phase == phase
    return control


@pytest.mark.parametrize(
    ("phase", "may_propose", "ending", "closed", "leaves_at"),
    [
        ("searching", True, False, None, []),
        ("pausing", False, True, None, [READY, SCORED]),
        ("final_evaluation", False, False, "the finalists are chosen", []),
        ("stopping", False, True, "interrupted by user", [RUNG, READY, SCORED]),
        ("done", False, False, "the sweep is over", []),
    ],
)
def test_sweep_control__answers_by_phase(
    phase: str, may_propose: bool, ending: bool, closed: str | None, leaves_at: list[dict]
) -> None:
    control = in_phase(phase)
    assert (control.may_propose(), control.ending, control.closed()) == (may_propose, ending, closed)
    assert [r for r in (REPORT, RUNG, READY, SCORED) if control.ends_at(r)] == leaves_at


def test_sweep_control__second_stop_request_is_immediate() -> None:
    control = SweepControl()
    stopper = SweepStopper(control)
    control.request_stop("one")
    assert not stopper.stop_all()
    control.request_stop("two")
    assert stopper.stop_all()
    assert (control.reason, control.gave_up) == ("two", False)


def test_sweep_control__gives_up_at_once() -> None:
    control = SweepControl()
    control.give_up("all trials fail")
    assert (control.stopping, control.immediate, control.gave_up) == (True, True, True)


def test_sweep_control__pause_ends_the_session_and_continue_the_pause() -> None:
    control = SweepControl()
    control.request_pause()
    control.end_pause()
    assert control.phase == "searching"
    assert control.paused_in_session, "trials have left: what follows needs a new session"
    control.begin_session()
    assert not control.paused_in_session


def test_sweep_control__stop_outlasts_pause_and_session() -> None:
    control = SweepControl()
    control.request_pause()
    control.request_stop("stopped by ada@host")
    control.request_pause()
    control.end_pause()
    control.begin_session()
    control.begin_final_evaluation()
    control.finish()
    assert control.phase == "stopping"


def test_sweep_control__trial_stop_is_taken_once() -> None:
    control = SweepControl()
    control.request_trial_stop("t001", "stopped by ada@host")
    assert control.take_trial_stop("t000") is None
    assert control.take_trial_stop("t001") == "stopped by ada@host"
    assert control.take_trial_stop("t001") is None


def test_sweep_control__limit_closes_the_search() -> None:
    reached: list[str] = []
    control = SweepControl(lambda: reached[0] if reached else None)
    assert control.may_propose()
    reached.append("search.limit.hours: 2 hours are over")
    assert not control.may_propose()
    assert control.closed() == reached[0]


def test_sweep_control__pickles_empty() -> None:
    assert cloudpickle.loads(cloudpickle.dumps(SweepControl())).__dict__ == {}


def test_limit__counts_slot_seconds() -> None:
    view = SweepState()
    limit = Limit(spec(search={"trials": 3, "limit": {"gpu_hours": 1.0}}), view)
    assert limit.reached() is None
    view.apply(
        {"kind": "cost", "trial_id": None, "slot": "s", "phase": "idle", "seconds": 3600.0, "gpus": 1.0}
    )
    assert (limit.reached() or "").startswith("search.limit.gpu_hours")
