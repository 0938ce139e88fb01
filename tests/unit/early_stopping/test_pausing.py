"""Paused trials count as stopped until they resume, which they do when they are worth their cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.judged_sweep import JudgedSweep
from sweepft.early_stopping import EarlyStopper, make_report, make_rule, replay_state
from sweepft.early_stopping.pausing import PausedTrial


def at(step: int, metric: float) -> Any:
    return make_report(step=[step], progress=[step], metric=metric)


def paused(n: int = 6, **kw: Any) -> EarlyStopper:
    """The first three trials go on, the others are worse and worse."""
    r = EarlyStopper(
        rule=make_rule("median", min_peers=2), rungs=(0.1, 0.5), budget=100, mode="min", pause=True, **kw
    )
    for i in range(n):
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, 3.0 - i if i < 3 else float(i)))
    return r


def statuses(r: EarlyStopper) -> dict[str, str]:
    return {name: t.status for name, t in r.cohort.trials.items()}


def test_pause__flagged_trials_are_paused_and_count_as_ended() -> None:
    r, stopped = paused(), paused(0)
    assert [v.action for v in r.decisions] == ["continue"] * 3 + ["pause"] * 3
    assert r.decisions[-1].ends_trial
    assert statuses(r) == dict.fromkeys(("t0", "t1", "t2"), "running") | dict.fromkeys(
        ("t3", "t4", "t5"), "paused"
    )
    assert r.cohort.remaining == 3
    assert r.summary()["trials_saved"] == pytest.approx(2.7)
    assert stopped.paused_trials() == []


def test_pause__audits_come_first() -> None:
    r = paused(audit=1.0)
    assert [v.action for v in r.decisions[3:]] == ["audit"] * 3


def test_pause__a_new_report_resumes_a_trial() -> None:
    r = paused()
    r.add("t4")  # proposed again
    assert r.report("t4", at(10, 9.9)) == []  # and nothing new yet
    r.complete("t4", at(10, 9.9))  # as Ray says of a trial that was just stopped
    r.remove("t4")
    assert statuses(r)["t4"] == "paused"
    assert r.report("t4", at(30, 0.1)) == []
    assert (statuses(r)["t4"], r.cohort.remaining) == ("running", 4)
    r.complete("t4", at(100, 0.1))
    assert r.cohort.finals == {"t4": 0.1}


def test_pause__a_resumed_trial_may_be_paused_again_or_end() -> None:
    r = paused()
    for i in range(3):
        r.report(f"t{i}", at(50, 1.0))
    (again,) = r.report("t3", at(50, 7.0))
    assert again.action == "pause"
    r.complete("t5", at(100, 2.0))
    assert statuses(r)["t3"] == "paused"
    assert r.cohort.finals == {"t5": 2.0}
    r.fail("t3")
    assert statuses(r)["t3"] == "failed"


def test_paused_trials__the_likeliest_is_first_at_its_price() -> None:
    r = paused(8)
    r.report("t5", at(40, 0.5))
    found = r.paused_trials()
    assert {p.trial_id for p in found} == {"t3", "t4", "t6", "t7"}
    assert found == sorted(found, key=lambda p: -p.p_top)
    first, last = found[0], found[-1]
    assert (first.trial_id, first.p_top > last.p_top) == ("t3", True)
    assert (first.price, first.needed) == (0.9, pytest.approx(0.18))
    assert {p.price for p in r.paused_trials(from_scratch=True)} == {1.0}
    r.give_up("t3")
    r.give_up("t5")  # not paused: nothing to give up
    assert (statuses(r)["t3"], statuses(r)["t5"]) == ("stopped", "running")
    assert r.paused_trials()[0].trial_id == "t4"


@pytest.mark.parametrize(
    ("p_top", "price", "worth"), [(0.1, 0.5, True), (0.1, 0.51, False), (0.0, 0.0, True), (0.19, 1.0, False)]
)
def test_paused_trial__is_worth_its_price_or_not(p_top: float, price: float, worth: bool) -> None:
    paused_trial = PausedTrial("t0", p_top, price, price * 0.2)
    assert paused_trial.worth is worth
    assert (">=" if worth else "<") in paused_trial.reason


EARLY_STOP = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["median", "asha", "calibrated"]),
        "audit": st.sampled_from([None, 0.0, 0.3, 1.0]),
        "top_fraction": st.sampled_from([0.2, 0.5]),
        "min_peers": st.sampled_from([1, 4]),
        "pause": st.booleans(),
    }
)
SWEEPS = st.builds(
    JudgedSweep,
    seed=st.integers(0, 10_000),
    early_stop=EARLY_STOP,
    trials=st.integers(2, 24),
    slots=st.integers(1, 4),
    crashes=st.lists(st.integers(1, 60), max_size=3).map(tuple),
)


@settings(deadline=None, max_examples=40)
@given(sweep=SWEEPS)
@example(
    JudgedSweep(
        5839,
        {"rule": "median", "audit": None, "top_fraction": 0.2, "min_peers": 1, "pause": False},
        11,
        2,
        0.02,
        (30,),
    )
)
def test_pause__a_sweep_rebuilt_from_its_ledger_is_equal(sweep: JudgedSweep) -> None:
    """Equal decisions and state, whatever was paused, resumed, failed or cut by a crash."""
    sweep.run()
    view = sweep.state()
    again = sweep.fresh_early_stopper()
    decisions = replay_state(again, view)
    recorded = view.decisions
    assert [(v.trial_id, v.step, v.action, v.reason) for v in decisions] == [
        (r["trial_id"], r["step"], r["action"], r["reason"]) for r in recorded
    ]
    assert json.dumps(again.state_dict()) == json.dumps(sweep.early_stopper.state_dict())
    assert {n: t.status for n, t in view.trials.items()} == {
        n: s for n, s in statuses(again).items() if n in view.trials
    }


@settings(deadline=None, max_examples=40)
@given(sweep=SWEEPS)
def test_pause__no_trial_worth_resuming_is_left_at_the_end(
    sweep: JudgedSweep,
) -> None:
    sweep.early_stop["pause"] = True
    sweep.run()
    ends = [r for r in sweep.rows if r["kind"] == "end" and r["status"] == "stopped"]
    assert all(" < " in r["reason"] for r in ends)
    assert not [t for t in statuses(sweep.early_stopper).values() if t in ("paused", "running")]
