"""A search ends when a further trial is not expected to gain enough."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from support.search_material import make_spec
from sweepft.driver.control import SweepControl
from sweepft.driver.enough import EnoughCheck
from sweepft.ledger import EventLog, SweepState
from sweepft.report import summarise
from sweepft.search.enough import candidates, expected_gain
from sweepft.spec import SweepSpec, from_dict

RATES = {"learning_rate": {"log_uniform": [1e-5, 1e-1]}}
GAIN = 0.01


def objective(rate: float) -> float:
    return 1.0 + 0.2 * (math.log10(rate) + 3) ** 2


def rates(n: int) -> list[float]:
    """Evenly spread over the range, a van der Corput sequence: each new one lies in the largest gap."""
    places = [
        sum(int(bit) / 2 ** (i + 1) for i, bit in enumerate(reversed(f"{k:b}"))) for k in range(1, n + 1)
    ]
    return [10 ** (-5 + 4 * place) for place in places]


def ledger(spec: SweepSpec, n: int, run_dir: Path | None = None, change: Any = float) -> LedgerBuilder:
    built = LedgerBuilder(run_dir, spec=spec.to_dict(), budget_samples=100)
    for number, rate in enumerate(rates(n)):
        origin = "start_with" if number == 0 else "sampler"
        value = change(objective(rate))
        built.completed(f"t{number:03d}", value, number=number, params={"learning_rate": rate}, origin=origin)
    return built


def gain_of(n: int, change: Any = float) -> float:
    spec = make_spec(RATES)
    found = expected_gain(spec, candidates(ledger(spec, n, change=change).state()))
    assert found is not None
    return found


def test_expected_gain__falls_with_trials_and_has_the_unit_of_the_objective() -> None:
    few, many = gain_of(4), gain_of(24)
    assert few > GAIN > 0.002 > many >= 0
    assert gain_of(8) == gain_of(8)
    assert gain_of(8, lambda value: 10 * value - 3) == pytest.approx(10 * gain_of(8), rel=0.05)


def test_expected_gain__follows_the_direction_of_the_objective() -> None:
    maximized = {"maximize": {"task": "maths", "metric": "exact_match"}}
    spec = from_dict({**make_spec(RATES).to_dict(), "objective": maximized})
    assert expected_gain(
        spec, candidates(ledger(spec, 8, change=lambda value: 1 - value).state())
    ) == pytest.approx(gain_of(8), rel=1e-3)


def test_expected_gain__is_not_known_of_one_trial_and_nothing_where_all_are_alike() -> None:
    spec = make_spec(RATES)
    assert expected_gain(spec, candidates(ledger(spec, 1).state())) is None
    assert gain_of(6, lambda value: 2.0) == 0


def run(spec: SweepSpec, built: LedgerBuilder) -> tuple[EventLog, SweepControl, EnoughCheck]:
    assert built.ledger is not None
    assert spec.search.enough is not None
    log, control = EventLog(built.ledger, built.state()), SweepControl()
    check = EnoughCheck(spec, spec.search.enough, log, control)
    log.listeners.append(check.on_row)
    return log, control, check


def complete(log: EventLog, n: int) -> None:
    """The rows of a trial that completes, as a driver writes them."""
    rate, last = rates(n + 1)[n], LedgerBuilder(budget_samples=100)
    last.completed(f"t{n:03d}", objective(rate), number=n, params={"learning_rate": rate})
    for row in last.rows[1:]:
        log.write(row["kind"], **{k: v for k, v in row.items() if k not in ("seq", "time", "kind", "crc")})


def test_enough__ends_the_search_after_min_trials_and_a_resume_knows_it(tmp_path: Path) -> None:
    spec = make_spec(
        RATES, trials=40, enough={"gain": GAIN, "min_trials": 12}, start_with=[{"learning_rate": 1e-3}]
    )
    built = ledger(spec, 11, tmp_path)
    log, control, check = run(spec, built)
    check.take_up()
    assert (log.state.enough, control.enough) == ([], None)
    complete(log, 11)
    row = log.state.found_enough
    assert row is not None
    assert (row["completed"], row["left"], row["enough"]) == (12, 28, True)
    assert 0 <= row["expected"] < GAIN
    assert control.enough is not None
    assert control.closed() == control.enough
    assert log.state.planned_trials == 12

    report = summarise(log.state)["enough"]
    assert (report["reached"], report["saved_trials"], report["checks"]) == (
        True,
        28,
        [[12, row["expected"]]],
    )
    assert report["saved_seconds"] == pytest.approx(28.0)  # a second a trial
    assert "saved 28 of 40 trials" in report["text"]

    again = SweepState.from_rows([*built.rows, *(dict(r) for r in [*log.state.enough])])
    resumed = SweepControl()
    EnoughCheck(spec, spec.search.enough, EventLog(built.ledger, again), resumed).take_up()
    assert resumed.enough == control.enough
    built.close()


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({}, True),
        ({"enough": {"gain": GAIN / 2, "min_trials": 12}}, False),
        ({"enough": {"gain": GAIN, "min_trials": 20}}, False),
        ({"enough": None}, False),
    ],
)
def test_found_enough__ends_with_the_spec_that_asked_for_it(changes: dict[str, Any], reached: bool) -> None:
    asked: dict[str, Any] = {"trials": 40, "enough": {"gain": GAIN, "min_trials": 12}}
    built = ledger(make_spec(RATES, **asked), 12)
    built.write("enough", completed=12, expected=0.001, gain=GAIN, enough=True, left=28).finish()
    later = make_spec(RATES, **{key: value for key, value in (asked | changes).items() if value is not None})
    built.sweep(spec=later.to_dict())
    assert (built.state().found_enough is not None) is reached
    assert built.state().planned_trials == (12 if reached else 40)


def test_enough__waits_for_the_baseline(tmp_path: Path) -> None:
    spec = make_spec(
        RATES, trials=40, enough={"gain": 10 * GAIN, "min_trials": 4}, start_with=[{"learning_rate": 1e-3}]
    )
    built = LedgerBuilder(tmp_path, spec=spec.to_dict(), budget_samples=100)
    built.trial("t000", params={"learning_rate": 1e-3}, origin="start_with")
    for number, rate in enumerate(rates(14)[1:], 1):
        built.completed(f"t{number:03d}", objective(rate), number=number, params={"learning_rate": rate})
    log, control, check = run(spec, built)
    check.take_up()
    assert (log.state.enough, control.enough) == ([], None)
    log.write(
        "end", trial_id="t000", attempt=1, status="failed", reason="lost", objective=None,
        step=1, samples_seen=10, tokens_seen=1,
    )  # fmt: skip
    assert len(log.state.enough) == 1
    assert control.enough is not None
    built.close()
