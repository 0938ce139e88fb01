"""Windows: what a person may write, and where a trial is at one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.early_stopping import Rung, eligible, parse_rungs, rung_steps, windows_reached


def test_fractions_and_counts_are_read_in_order_without_repeats() -> None:
    rungs = parse_rungs([0.1, {"steps": 200}, 0.1, {"samples": 50_000}])
    assert [w.name for w in rungs] == ["10%", "200 steps", "50000 samples"]
    assert [w.fraction for w in rungs] == [0.1, None, None]


@pytest.mark.parametrize(
    "bad", [0, -0.1, 1.5, math.nan, True, "10%", {"steps": 0}, {"epochs": 1}, {}, {"steps": 1, "samples": 2}]
)
def test_what_is_not_a_window_is_refused_with_a_remedy(bad: object) -> None:
    with pytest.raises(ValueError, match=r"rungs: .*got[\s\S]*write 0.1"):
        parse_rungs([bad])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("step", "samples", "names"),
    [
        (1, 99, []),
        (1, 100, ["10%"]),
        (5, 100, ["10%", "5 steps"]),
        (4, 299.9999999999999, ["10%", "30%", "300 samples"]),  # a rounding error is not a miss
    ],
)
def test_a_trial_is_at_a_window_at_its_first_step_that_reaches_it(
    step: int, samples: float, names: list[str]
) -> None:
    rungs = parse_rungs([0.1, 0.3, {"steps": 5}, {"samples": 300}])
    assert [w.name for w in windows_reached(rungs, step=step, samples_seen=samples, budget=1000)] == names


@pytest.mark.parametrize(
    ("step", "min_steps", "warmup", "expected"),
    [(20, 20, 0, True), (19, 20, 0, False), (20, 20, 20, False), (21, 20, 20, True), (1, 0, 0, True)],
)
def test_a_trial_is_judged_after_min_steps_and_past_its_warmup(
    step: int, min_steps: int, warmup: int, expected: bool
) -> None:
    assert eligible(step=step, min_steps=min_steps, warmup_steps=warmup) is expected


@settings(deadline=None, max_examples=200)
@given(
    fraction=st.integers(1, 1000).map(lambda n: n / 1000),
    batch=st.integers(1, 300),
    budget=st.integers(1, 5000),
)
def test_planned_steps_are_the_first_steps_that_reach_the_window(
    fraction: float, batch: int, budget: int
) -> None:
    """The trainable's plan and the scheduler's watch agree at every step of every trial."""
    rung = Rung("fraction", fraction)
    planned = rung_steps([rung], batch_size=batch, budget=budget)[rung]
    reached = [
        rung.reached(step=s, samples_seen=min(s * batch, budget), budget=budget)
        for s in range(1, math.ceil(budget / batch) + 1)
    ]
    assert reached.index(True) + 1 == planned


def test_windows_a_trial_never_reaches_are_not_planned() -> None:
    rungs = parse_rungs([0.5, {"steps": 11}])
    assert rung_steps(rungs, batch_size=10, budget=100) == {rungs[0]: 5}
