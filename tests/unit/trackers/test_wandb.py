"""A run for every trial as W&B itself keeps it offline: history, settings, summary; and no key in it."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.tracked_run import TrackedRun
from sweepft.trackers.feed import track_run

wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
Record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record

pytestmark = pytest.mark.full  # each starts W&B's service: seconds

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def track(run_dir: Path) -> dict[str, str | None]:
    """Track it, and let W&B's service write what it holds back, as the end of the process does."""
    found = track_run(run_dir)
    wandb.teardown()
    return found


def records(folder: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    (file,) = folder.glob("*.wandb")
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def contents(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"history": [], "summary": {}, "run": None}
    for record in records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found["history"].append(
                {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            )
        elif kind == "summary":
            found["summary"] |= {
                u.key or ".".join(u.nested_key): json.loads(u.value_json) for u in record.summary.update
            }
        elif kind == "run":
            found["run"] = record.run
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def folders(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def test_wandb__run_has_curves_params_metric_and_decisions(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, {"wandb": {"project": "p"}})
    run.trial()
    run.trial("t001")
    run.result("t000", objective=2.25)
    run.result("t001", loss=float("nan"))
    run.decision("audit", "t000")
    run.decision("stop", "t001")
    run.end("t001", status="stopped")
    run.result("t000", objective=2.0)
    run.end("t000", objective=2.0)
    run.finish()
    assert track(tmp_path) == {"wandb": None}
    by_name = {found["run"].display_name: found for found in map(contents, folders(tmp_path))}
    assert by_name.keys() == {"t000", "t001"}
    first = by_name["t000"]
    assert (first["run"].project, first["run"].run_group, first["run"].job_type) == ("p", "my-sweep", "trial")
    points = [
        (h["_step"], h["samples_seen"], h.get("train/loss"), h.get("validation/objective"))
        for h in first["history"]
    ]
    assert points == [
        (2, 8, 3.0, None), (4, 16, 1.5, None), (5, 16, None, 2.25),
        (6, 24, 1.0, None), (8, 32, 0.75, None), (9, 32, None, 2.0),
    ]  # fmt: skip
    params = {c.key: json.loads(c.value_json) for c in first["run"].params.update}
    assert params["batch_size"] == 8
    assert params["optimizer"] == {"eps": 1e-8}
    assert first["summary"]["status"] == "completed"
    assert first["summary"]["objective"] == 2.0
    assert first["summary"]["decisions"] == ["16 samples: audit by calibrated: p_top 0.01 < 0.05"]
    assert by_name["t001"]["summary"]["status"] == "stopped"
    assert (first["exit"], by_name["t001"]["exit"]) == (0, 0)


def test_wandb__continued_trial_has_one_complete_folder(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, {"wandb": {}})
    run.trial()
    run.result(objective=2.5)
    track(tmp_path)
    run.result(objective=2.0)
    run.end(objective=2.0)
    assert track(tmp_path) == {"wandb": None}
    (folder,) = folders(tmp_path)
    found = contents(folder)
    assert Counter(h["samples_seen"] for h in found["history"]) == {8: 1, 16: 2, 24: 1, 32: 2}
    assert found["run"].project == "my-sweep"
    assert track(tmp_path) == {"wandb": None}
    assert folders(tmp_path) == [folder], "nothing is left to be sent"


def test_wandb__api_key_is_in_no_file(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, {"wandb": {}})
    run.trial()
    run.result(objective=2.5)
    run.end(objective=2.5)
    track(tmp_path)
    assert [str(p) for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()] == []
