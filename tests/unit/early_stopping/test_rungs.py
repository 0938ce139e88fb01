"""Rungs: the accepted values, and the step at which a trial reaches one."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.errors import raises
from sweepft.early_stopping import (
    EarlyStopper,
    MedianRule,
    Rung,
    eligible,
    make_report,
    parse_rungs,
    rung_steps,
)
from sweepft.slot.jobs import report_points


def test_parse_rungs__keeps_order_and_drops_repeats() -> None:
    rungs = parse_rungs([0.1, {"steps": 200}, 0.1, {"samples": 50_000}])
    assert [w.name for w in rungs] == ["10%", "200 steps", "50000 samples"]
    assert [w.fraction for w in rungs] == [0.1, None, None]


@pytest.mark.parametrize(
    "bad", [0, -0.1, 1.5, math.nan, True, "10%", {"steps": 0}, {"epochs": 1}, {}, {"steps": 1, "samples": 2}]
)
def test_parse_rungs__refuses_what_is_no_rung(bad: object) -> None:
    with raises(ValueError, "rungs"):
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
def test_rung__is_reached_from_its_threshold_on(step: int, samples: float, names: list[str]) -> None:
    rungs = parse_rungs([0.1, 0.3, {"steps": 5}, {"samples": 300}])
    reached = [r.name for r in rungs if r.reached(step=step, samples_seen=samples, budget=1000)]
    assert reached == names


@pytest.mark.parametrize(
    ("step", "min_steps", "warmup", "expected"),
    [(20, 20, 0, True), (19, 20, 0, False), (20, 20, 20, False), (21, 20, 20, True), (1, 0, 0, True)],
)
def test_eligible__needs_min_steps_and_the_end_of_warmup(
    step: int, min_steps: int, warmup: int, expected: bool
) -> None:
    assert eligible(step=step, min_steps=min_steps, warmup_steps=warmup) is expected


FRACTIONS = st.one_of(
    st.integers(1, 999).map(lambda n: n / 1000),
    st.sampled_from([0.07, 0.14, 0.28, 0.34, 0.55, 0.68, 1 / 3, 1 / 27, 0.1 + 0.2]),
    st.floats(1e-6, 0.999),
)
BUDGETS, BATCHES = st.integers(1, 5000), st.sampled_from([1, 2, 3, 4, 7, 8, 16, 32, 64, 300])


@settings(deadline=None, max_examples=300)
@given(fraction=FRACTIONS, batch=BATCHES, budget=BUDGETS)
@example(fraction=0.07, batch=8, budget=800)  # 0.07 * 800 is 56.00000000000001
def test_first_step__is_the_first_that_reaches_the_rung(fraction: float, batch: int, budget: int) -> None:
    rung = Rung("fraction", fraction)
    steps = range(1, math.ceil(budget / batch) + 1)
    first = next(s for s in steps if rung.reached(step=s, samples_seen=min(s * batch, budget), budget=budget))
    assert rung.first_step(batch_size=batch, budget=budget) == first


@settings(deadline=None, max_examples=200)
@given(rungs=st.lists(FRACTIONS, min_size=1, max_size=4, unique=True), batch=BATCHES, budget=BUDGETS)
@example(rungs=[0.07, 0.14, 0.28], batch=8, budget=800)
def test_report_points__validate_at_the_step_that_is_judged(
    rungs: list[float], batch: int, budget: int
) -> None:
    """Each rung is judged by the objective of its own step, whatever the budget, the batch size and the fractions."""
    stopper = EarlyStopper(rule=MedianRule(), rungs=rungs, budget=budget, mode="min")
    done, validated = 0, set()
    for point in report_points(budget, rungs, batch):
        steps = range(done + 1, math.ceil(point.samples / batch) + 1)
        done = steps[-1]
        validated |= {done} if point.rung is not None else set()
        report = make_report(
            step=steps,
            progress=[min(s * batch, budget) for s in steps],
            metric=float(done) if point.rung is not None else None,
        )
        for decision in stopper.report("t0", report):
            assert decision.evidence["objective_step"] == decision.evidence["objective"] == done
    snapshots = stopper.cohort.trials["t0"].snapshots
    assert {snapshot.step for snapshot in snapshots.values()} <= validated
    assert all(s.metric_step == s.step and s.metric == s.step for s in snapshots.values())
    assert len(snapshots) == len(rungs)


@settings(deadline=None, max_examples=200)
@given(fraction=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5, 0.75]), budget=st.integers(1, 10**7))
def test_first_step__of_usual_fractions_is_their_ceiling(fraction: float, budget: int) -> None:
    assert Rung("fraction", fraction).first_step(batch_size=1, budget=budget) == math.ceil(fraction * budget)


@pytest.mark.parametrize(
    ("rung", "step"), [(0.5, 5), ({"steps": 10}, 10), ({"steps": 11}, None), ({"samples": 101}, None)]
)
def test_rung_steps__leaves_out_rungs_beyond_the_budget(rung: object, step: int | None) -> None:
    rungs = parse_rungs([rung])  # type: ignore[list-item]
    assert rung_steps(rungs, batch_size=10, budget=100) == ({} if step is None else {rungs[0]: step})
