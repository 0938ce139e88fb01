"""Every second of every lane is accounted for once: by trials, or as start-up and idle time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepft.driver.ledger_callback import TimeAccounting


def test_time_accounting__first_wait_is_startup_later_ones_idle() -> None:
    clock = TimeAccounting(begin=100.0, lanes=2)
    assert clock.result("a", "t0", 110.0, {"train": 2.0, "switch": 1.0}) == ("startup", 7.0)
    assert clock.result("a", "t0", 115.0, {"train": 5.0}) is None, "within a trial the trial accounts for all"
    assert clock.result("a", "t1", 121.0, {"train": 4.0}) == ("idle", 2.0)
    assert clock.result("b", "t2", 130.0, {"train": 30.0}) == ("startup", 0.0)
    assert clock.close(135.0) == {"a": 14.0, "b": 5.0}


def test_time_accounting__late_result_counts_once() -> None:
    """The driver was busy for 2 s when the first result came; the trial's own clock ran on."""
    clock = TimeAccounting(begin=0.0, lanes=1)
    assert clock.result("a", "t0", 12.0, {"train": 4.0}) == ("startup", 8.0)
    clock.result("a", "t0", 15.0, {"train": 5.0})
    assert clock.result("a", "t1", 20.0, {"train": 2.0}) == ("idle", 1.0)
    assert clock.close(21.0) == {"a": 1.0}


def test_time_accounting__resumed_trial_did_not_hold_the_slot() -> None:
    clock = TimeAccounting(begin=0.0, lanes=1)
    clock.result("a", "t0", 10.0, {"train": 4.0})
    clock.leave("t0")
    assert clock.result("a", "t0", 30.0, {"train": 5.0}) == ("idle", 15.0)


def test_time_accounting__lost_slot_frees_its_lane() -> None:
    clock = TimeAccounting(begin=0.0, lanes=1)
    clock.result("a", "t0", 10.0, {"train": 4.0})
    assert clock.lose("a", 13.0) == 3.0
    assert clock.result("b", "t1", 20.0, {"train": 5.0}) == ("startup", 2.0)
    assert clock.close(21.0) == {"b": 1.0}


def test_time_accounting__silent_slot_frees_its_lane() -> None:
    clock = TimeAccounting(begin=0.0, lanes=2)
    clock.result("a", "t0", 10.0, {"train": 10.0})
    clock.result("b", "t1", 12.0, {"train": 12.0})
    assert clock.result("c", "t2", 20.0, {"train": 4.0}) == ("startup", 6.0), "a was silent since 10"
    assert clock.close(20.0) == {"b": 8.0, "c": 0.0}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.booleans(), st.floats(0.0, 50.0), st.floats(0.0, 50.0), st.floats(0.0, 1.0)
        ),
        min_size=1,
    )
)
def test_time_accounting__sums_to_lanes_times_time(
    events: list[tuple[int, bool, float, float, float]],
) -> None:
    """Slots wait, train and report; results come late by anything, but a slot takes the next trial only after that."""
    clock = TimeAccounting(begin=0.0, lanes=4)
    slots = {n: {"at": 0.0, "heard": 0.0, "trial": 0} for n in range(4)}
    accounted = now = 0.0
    seen = set()
    for n, same, wait, train, late in events:
        slot = slots[n]
        begin = slot["at"]
        if n not in seen or not same:  # the next trial is taken some time after the last result was heard
            slot["trial"] += 1
            begin = slot["heard"] + wait
        slot["at"] = begin + train
        slot["heard"] = max(slot["heard"], slot["at"] + late)
        seen.add(n)
        between = clock.result(f"s{n}", f"t{n}.{slot['trial']}", slot["heard"], {"train": train})
        accounted += train + (between[1] if between else 0.0)
        now = max(now, slot["heard"])
    now += 1.0  # as much as a result can be late by
    accounted += sum(clock.close(now).values())
    assert accounted == pytest.approx(len(seen) * now, rel=1e-9, abs=1e-6)
