"""The tracker process follows a sweep, ends with it, and cannot harm it."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from support.tracked_run import TrackedRun
from sweepft.driver.sidecars import Tracking
from sweepft.replay.sources import read_scalars


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def losses(run_dir: Path) -> list[int]:
    files = (run_dir / "tensorboard").rglob("events.*")
    return sorted(s.step for file in files for s in read_scalars(file) if s.tag == "train/loss")


def test_tracking__follows_to_the_end(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, {"tensorboard": True})
    shown = console()
    tracking = Tracking(tmp_path, shown)
    assert tracking.follower is not None
    assert os.getsid(tracking.follower.pid) != os.getsid(0), "Ctrl-C does not reach it"
    run.trial()
    for _ in range(3):
        tracking.on_row(run.result())
    run.end()
    run.finish()
    tracking.on_row({"kind": "finish"})
    assert tracking.follower is None
    assert losses(tmp_path) == [8, 16, 24, 32, 40, 48]
    assert said(shown).replace("sending the last rows to trackers; Ctrl-C skips them", "").strip() == ""


def test_tracking__process_ends_with_its_driver(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, {"tensorboard": True})
    tracking = Tracking(tmp_path, console())
    run.trial()
    run.result()
    assert tracking.follower is not None
    process = tracking.follower.process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # what the system does when the driver dies
    assert process.wait() == 0
    assert losses(tmp_path) == [8, 16]


def test_tracking__failing_tracker_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = TrackedRun(tmp_path, {"tensorboard": True})
    (tmp_path / "tensorboard").write_text("in the way")
    shown = console()
    tracking = Tracking(tmp_path, shown)
    run.trial()
    run.result()
    run.finish()
    with caplog.at_level(logging.WARNING):
        tracking.on_row({"kind": "finish"})
    assert said(shown).count("warning: tracking by tensorboard ended") == 1
    assert f"sweepft track {tmp_path}" in said(shown)
    assert caplog.text.count("tracking failed: tracker=tensorboard") == 1
    assert "tracking stopped: tracker=tensorboard" in (tmp_path / "logs/track.log").read_text()


@pytest.mark.parametrize("code", ["import os; os._exit(3)", "raise SystemExit(3)"])
def test_tracking__dead_process_is_reported_once(tmp_path: Path, code: str) -> None:
    shown = console()
    tracking = Tracking(tmp_path, shown, ("-c", code))
    assert tracking.follower is not None
    tracking.follower.process.wait()
    for kind in ("eval", "end", "eval", "finish"):
        tracking.on_row({"kind": kind})
    assert said(shown).count("the process ended with code 3") == 1


def test_tracking__killed_process_is_reported(tmp_path: Path) -> None:
    shown = console()
    tracking = Tracking(tmp_path, shown, ("-c", "import time; time.sleep(60)"))
    assert tracking.follower is not None
    os.kill(tracking.follower.pid, signal.SIGKILL)
    tracking.follower.process.wait()
    tracking.on_row({"kind": "end"})
    assert "the process ended with code -9" in said(shown)


def test_tracking__unstartable_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    shown = console()
    tracking = Tracking(tmp_path, shown)
    tracking.on_row({"kind": "eval"})
    tracking.on_row({"kind": "finish"})
    assert said(shown).count("the process cannot be started") == 1
