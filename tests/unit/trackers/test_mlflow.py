"""A run for every trial in a real MLflow database; sending again adds nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.tracked_run import TrackedRun
from sweepft.trackers.feed import track_run

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
pytest.importorskip("alembic", reason="the extra mlflow is not installed")
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

pytestmark = [
    pytest.mark.full,  # MLflow takes seconds to load, and to make its tables
    pytest.mark.filterwarnings("ignore"),  # its own
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def runs(run_dir: Path, experiment: str = "my-sweep") -> dict[str, Run]:
    client = MlflowClient(f"sqlite:///{run_dir / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def history(run_dir: Path, run: Run, key: str) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{run_dir / 'mlflow.db'}")
    return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))


def test_mlflow__run_has_curves_params_metric_and_decisions(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, {"mlflow": {}})
    run.two_trials()
    assert track_run(tmp_path) == {"mlflow": None}
    found = runs(tmp_path)
    assert {name: one.info.status for name, one in found.items()} == {"t000": "FINISHED", "t001": "SCHEDULED"}
    first = found["t000"]
    assert first.data.params["batch_size"] == "8"
    assert first.data.params["optimizer.eps"] == "1e-08"
    assert first.data.metrics["objective"] == 2.0
    assert first.data.tags["sweepft.status"] == "completed"
    assert first.data.tags["sweepft.decision.16"] == "audit by calibrated: p_top 0.01 < 0.05"
    assert history(tmp_path, first, "train/loss") == [(8, 3.0), (16, 1.5), (24, 1.0), (32, 0.75)]
    assert history(tmp_path, first, "validation/own") == [(16, 2.25), (32, 2.0)]
    assert math.isnan(history(tmp_path, found["t001"], "train/loss")[0][1])
    assert not (tmp_path / "mlruns").exists()
    assert not Path("mlruns").exists()


def test_mlflow__sending_twice_adds_nothing(tmp_path: Path) -> None:
    """As after a crash between the sending and the note of it."""
    run = TrackedRun(tmp_path, {"mlflow": {"experiment": "e"}})
    run.trial()
    run.result(objective=2.5)
    track_run(tmp_path)
    (tmp_path / "track/state.json").unlink()
    run.result(objective=2.0)
    run.end(objective=2.0)
    assert track_run(tmp_path) == {"mlflow": None}
    (one,) = runs(tmp_path, "e").values()
    assert history(tmp_path, one, "train/loss") == [(8, 3.0), (16, 1.5), (24, 1.0), (32, 0.75)]
    assert one.info.status == "FINISHED"


def test_mlflow__missing_store_ends_only_the_tracking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:planted-pass@127.0.0.1:9")
    run = TrackedRun(tmp_path, {"mlflow": {}})
    run.trial()
    run.result()
    (failure,) = track_run(tmp_path).values()
    assert failure is not None
    assert "planted-pass" not in failure
    assert [str(p) for p in tmp_path.rglob("*") if p.is_file() and b"planted-pass" in p.read_bytes()] == []
