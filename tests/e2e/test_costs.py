"""Costs of a run: the ledger accounts for slots x wall time, with early stops, a fault and a retry."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from support.models import RAISE_ONCE, faulty_model
from support.sweeps import run_spec, write_spec
from sweepft.driver import sweep as run_sweep
from sweepft.ledger import read_ledger

pytestmark = pytest.mark.ray


@pytest.fixture
def ray_takes_its_time(monkeypatch):
    """Ray needs a while to let the slots go, as where a sweep has a Ray of its own."""
    session = run_sweep.ray_session

    @contextlib.contextmanager
    def slow(*args):
        with session(*args) as warning:
            yield warning
        time.sleep(2)

    monkeypatch.setattr(run_sweep, "ray_session", slow)


def test_costs__sum_to_slots_times_wall_time(
    ray_here, ray_takes_its_time, tiny_model_dir, tiny_data_file, tmp_path
):
    model = faulty_model(
        tiny_model_dir, tmp_path / "model", RAISE_ONCE.format(call=7, rank=0, flag=str(tmp_path / "raised"))
    )
    spec = write_spec(
        tmp_path, model, tiny_data_file, model={"trust_remote_code": True},
        resources={"concurrent_trials": 2, "price_per_gpu_hour": 3600.0},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    rows = read_ledger(tmp_path / "run")
    statuses = {t.status for t in done.view.trials.values()}
    assert {"completed", "stopped"} <= statuses
    (fault,) = [r for r in rows if r["kind"] == "fault"]
    assert fault["action"] == "ranks rebuilt"

    cost = json.loads((tmp_path / "run/report.json").read_text())["cost"]
    assert cost["slots"] == 2
    capacity = 2 * (rows[-1]["time"] - rows[0]["time"])
    assert cost["capacity"] == pytest.approx(capacity)
    accounted = sum(cost["by_phase"].values())
    assert accounted == pytest.approx(capacity, rel=0.01)
    assert {"startup", "idle", "train", "data", "evaluate", "switch", "lost"} <= set(cost["by_phase"])
    assert cost["lost_to_faults"] >= fault["lost_seconds"] > 0
    assert cost["price"]["paid"] == pytest.approx(capacity)
