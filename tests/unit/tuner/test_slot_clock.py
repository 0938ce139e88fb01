"""Every second of every place for a slot is told once: by trials, or as start-up and idle time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepft.tuner.clock import SlotClock


def test_a_slots_first_wait_is_its_start_up_and_the_others_are_idle() -> None:
    clock = SlotClock(begin=100.0, places=2)
    assert clock.result("a", "t0", 110.0, {"train": 2.0, "switch": 1.0}) == ("startup", 7.0)
    assert clock.result("a", "t0", 115.0, {"train": 5.0}) is None, "within a trial the trial accounts for all"
    assert clock.result("a", "t1", 121.0, {"train": 4.0}) == ("idle", 2.0)
    assert clock.result("b", "t2", 130.0, {"train": 30.0}) == ("startup", 0.0)
    assert clock.close(135.0) == {"a": 14.0, "b": 5.0}


def test_a_slot_that_is_lost_leaves_its_place_to_the_next() -> None:
    clock = SlotClock(begin=0.0, places=1)
    clock.result("a", "t0", 10.0, {"train": 4.0})
    assert clock.lose("a", 13.0) == 3.0
    assert clock.result("b", "t1", 20.0, {"train": 5.0}) == ("startup", 2.0)
    assert clock.close(21.0) == {"b": 1.0}


def test_a_slot_that_went_unnoticed_leaves_its_place_too() -> None:
    clock = SlotClock(begin=0.0, places=2)
    clock.result("a", "t0", 10.0, {"train": 10.0})
    clock.result("b", "t1", 12.0, {"train": 12.0})
    assert clock.result("c", "t2", 20.0, {"train": 4.0}) == ("startup", 6.0), "a was silent since 10"
    assert clock.close(20.0) == {"b": 8.0, "c": 0.0}


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 9), st.floats(0.0, 50.0), st.floats(0.0, 1.0)), min_size=1
    ),
    st.floats(0.0, 100.0),
)
def test_what_is_told_sums_to_places_times_time(
    events: list[tuple[int, int, float, float]], tail: float
) -> None:
    """Phases may cover any share of the time since the slot's last result; the clock tells the rest."""
    clock = SlotClock(begin=0.0, places=4)
    last: dict[str, tuple[float, str | None]] = {}
    told = now = 0.0
    for slot_number, trial_number, pause, share in events:
        now += pause
        slot, trial = f"s{slot_number}", f"t{trial_number}"
        since, before = last.get(slot, (0.0, None))
        phases = {"train": (now - since) * (1.0 if before == trial else share)}
        between = clock.result(slot, trial, now, phases)
        told += sum(phases.values()) + (between[1] if between else 0.0)
        last[slot] = (now, trial)
    told += sum(clock.close(now + tail).values())
    assert told == pytest.approx(len(last) * (now + tail), rel=1e-9, abs=1e-6)
