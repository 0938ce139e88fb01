"""The cost of a sweep in money, and the waits on the chart of slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_sweep import Sweep

from sweepft.ledger import SweepState
from sweepft.report import summarise
from sweepft.report.curves import timeline, waits
from sweepft.report.tables import markdown


def test_cost__price_is_the_specs_unless_another_is_given(tmp_path: Path) -> None:
    view = SweepState.load(Sweep(trials=12, gpus=2.0).write(tmp_path))
    assert summarise(view)["cost"]["price"] is None
    view.spec["resources"]["price_per_gpu_hour"] = 3.6
    cost = summarise(view)["cost"]
    assert cost["price"] == {
        "per_hour": 3.6,
        "paid": pytest.approx(cost["capacity"] * 3.6 / 3600),
        "trials": pytest.approx(cost["used"] * 3.6 / 3600),
        "saved": pytest.approx(cost["saved"] * 3.6 / 3600),
    }
    assert summarise(view, price=7.2)["cost"]["price"]["paid"] == pytest.approx(2 * cost["price"]["paid"])
    text = markdown(summarise(view))
    assert "for all GPU time at 3.60 per GPU-hour; early stopping saved" in text


def test_waits__lie_where_no_trial_ran(tmp_path: Path) -> None:
    view = SweepState.load(Sweep(trials=12, slots=3).write(tmp_path))
    bars = [(slot, start, end) for _, slot, start, end, *_ in timeline(view)]
    found = waits(view)
    assert {phase for phase, *_ in found} == {"startup", "idle"}
    for _, slot, start, end in found:
        others = [b for b in bars if b[0] == slot]
        assert all(end <= b[1] + 0.1 or start >= b[2] - 0.1 for b in others)


def test_cost__paused_trial_saves_once_the_sweep_is_over(tmp_path: Path) -> None:
    view = SweepState.load(Sweep(trials=24).write(tmp_path))
    stopped = view.with_status("stopped")[0]
    before = {t["trial_id"]: t["saved_seconds"] for t in summarise(view)["trials"]}
    stopped.status = "paused"
    assert {t["trial_id"]: t["saved_seconds"] for t in summarise(view)["trials"]} == before
    view.finish = None
    now = {t["trial_id"]: t["saved_seconds"] for t in summarise(view)["trials"]}
    assert before[stopped.trial_id] > now[stopped.trial_id] == 0.0
