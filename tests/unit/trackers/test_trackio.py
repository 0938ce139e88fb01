"""A run for every trial in Trackio's own database; a trial that continues or is sent again has each step once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.tracked_run import TrackedRun

pytest.importorskip("trackio", reason="the extra trackio is not installed")

pytestmark = pytest.mark.full  # Trackio takes seconds to load, and each process reads TRACKIO_DIR once

READ = """
import contextlib, json, sys
with contextlib.redirect_stdout(sys.stderr):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage
    found = {}
    for run in trackio.Api().runs(sys.argv[1]):
        rows = SQLiteStorage.get_logs(sys.argv[1], run.name, run_id=run.id)
        found.setdefault(run.name.split("-")[0], []).append(
            {"config": run.config, "rows": rows, "alerts": run.alerts()})
print(json.dumps(found))
"""


def track(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Track it in a process of its own, as the command does."""
    for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "sweepft", "track", str(run_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def runs(run_dir: Path, monkeypatch: pytest.MonkeyPatch, project: str = "my-sweep") -> dict[str, Any]:
    monkeypatch.setenv("TRACKIO_DIR", str(run_dir / "trackio"))
    done = subprocess.run([sys.executable, "-c", READ, project], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def points(run: Any, key: str) -> list[tuple[int, float]]:
    return sorted((row["step"], row[key]) for row in run["rows"] if key in row)


def test_trackio__run_has_curves_config_objective_and_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrackedRun(tmp_path, {"trackio": {}})
    run.two_trials()
    assert track(tmp_path, monkeypatch) == {"trackio": None}
    found = runs(tmp_path, monkeypatch)
    assert set(found) == {"t000", "t001"}
    [first] = found["t000"]
    assert (first["config"]["batch_size"], first["config"]["optimizer.eps"]) == (8, 1e-8)
    assert first["config"]["_Group"] == "my-sweep"
    assert [step for step, _ in points(first, "train/loss")] == [8, 16, 24, 32]
    assert points(first, "validation/objective") == [(16, 2.25), (32, 2.0)]
    assert points(first, "objective") == [(32, 2.0)]
    assert {alert["title"] for alert in first["alerts"]} == {"audit", "completed"}
    [second] = found["t001"]
    assert {alert["title"] for alert in second["alerts"]} >= {"pause"}

    run.start("t001", from_step=2)  # it comes back
    run.result("t001", objective=1.5)
    run.end("t001", objective=1.5)
    assert track(tmp_path, monkeypatch) == {"trackio": None}
    [second] = runs(tmp_path, monkeypatch)["t001"]
    assert [step for step, _ in points(second, "train/lr")] == [8, 16, 24, 32]
    assert points(second, "objective") == [(32, 1.5)]

    state = tmp_path / "track" / "state.json"  # as after a crash: all is sent again
    state.write_text(json.dumps({"process": 0, "trackers": {}}))
    assert track(tmp_path, monkeypatch) == {"trackio": None}
    again = runs(tmp_path, monkeypatch)
    assert {name: len(those) for name, those in again.items()} == {"t000": 1, "t001": 1}
    for name in again:
        assert [step for step, _ in points(again[name][0], "train/lr")] == [8, 16, 24, 32]
