"""The process that copies: it follows the run folder, tries again, and ends with its driver without harm to the sweep."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from support.errors import raises
from support.mirrored_run import MirroredRun, truth
from sweepft.cli.main import cli
from sweepft.driver import sidecars as mirroring
from sweepft.driver.progress import describe_run, status_of
from sweepft.driver.sidecars import check_mirror, mirrored
from sweepft.errors import LedgerLocked, MirrorError
from sweepft.mirror.fetch import fetch
from sweepft.mirror.follow import copy_once
from sweepft.mirror.status import read_status
from sweepft.spec import Mirror


@pytest.fixture
def run(tmp_path: Path) -> Iterator[MirroredRun]:
    made = MirroredRun(tmp_path / "run")
    made.trial()
    yield made
    made.ledger.close()


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Sweep:
    """What a driver does with its mirror."""

    def __init__(self, run: MirroredRun, tmp_path: Path) -> None:
        self.run, self.place = run, tmp_path / "place" / "mirror"
        self.mirror = Mirror(uri=self.place.as_uri(), seconds=1.0)
        self.console = Console(file=io.StringIO(), width=400)
        self.event_log: Any = SimpleNamespace(listeners=[])

    def going(self) -> Any:
        return mirrored(self.mirror, self.run.run_dir, self.event_log, self.console)

    def row(self) -> None:
        for listener in self.event_log.listeners:
            listener({"kind": "eval"})

    @property
    def said(self) -> str:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    def process(self) -> int:
        until(lambda: read_status(self.run.run_dir))
        note = read_status(self.run.run_dir)
        assert note is not None
        return note.process

    def back(self, tmp_path: Path) -> dict[str, bytes]:
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        fetch(self.mirror.uri, tmp_path / "back")
        return truth(tmp_path / "back")


@pytest.fixture
def sweep(run: MirroredRun, tmp_path: Path) -> Sweep:
    return Sweep(run, tmp_path)


def test_mirrored__rows_during_the_sweep_everything_at_its_end(sweep: Sweep, tmp_path: Path) -> None:
    def has(data: bytes) -> bool:
        return sweep.place.is_dir() and sweep.back(tmp_path)["ledger/ledger.jsonl"].endswith(data)

    ledger = sweep.run.run_dir / "ledger/ledger.jsonl"
    with sweep.going():
        until(lambda: (note := read_status(sweep.run.run_dir)) is not None and note.time)
        sweep.run.result()
        last = ledger.read_bytes().splitlines(keepends=True)[-1]
        until(lambda: has(last))
        assert "up to date at" in describe_run(status_of(sweep.run.run_dir))
        sweep.row()
        sweep.run.weights("t000")  # written at the very end, as best/ and report are
        sweep.run.report("a page")
    assert sweep.back(tmp_path) == truth(sweep.run.run_dir)
    assert (sweep.place / "report.html").read_text() == "a page"
    assert sweep.said == ""


def test_mirrored__failure_is_reported_once_and_repaired(sweep: Sweep, tmp_path: Path) -> None:
    with sweep.going():
        until(lambda: (note := read_status(sweep.run.run_dir)) is not None and note.time)
        shutil.rmtree(tmp_path / "place")
        (tmp_path / "place").write_text("in the way")
        sweep.run.result()
        until(lambda: (note := read_status(sweep.run.run_dir)) is not None and note.failure)
        for _ in range(3):
            sweep.row()
        assert sweep.said.count("warning: mirror: behind; retrying") == 1
        status = status_of(sweep.run.run_dir)
        assert status["mirror"]["failure"]
        assert "behind since: " in describe_run(status)
        (tmp_path / "place").unlink()
        until(lambda: (note := read_status(sweep.run.run_dir)) is not None and note.failure is None)
        sweep.row()
        assert sweep.said.count("the mirror is up to date again") == 1
    assert sweep.back(tmp_path) == truth(sweep.run.run_dir)
    assert "mirror behind" in (sweep.run.run_dir / "logs/mirror.log").read_text()


def test_mirrored__mirror_behind_at_the_end_fails_no_sweep(sweep: Sweep, tmp_path: Path) -> None:
    other = MirroredRun(tmp_path / "other")
    other.ledger.close()
    copy_once(other.run_dir, sweep.mirror.uri)
    with sweep.going():
        pass
    assert "holds another run" in sweep.said
    assert f"sweepft mirror {sweep.run.run_dir}" in sweep.said


def test_sidecar_process__ends_with_its_driver(sweep: Sweep, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time; from sweepft.driver.sidecars import SidecarProcess;"
        "run, uri = sys.argv[1:];"
        "f = SidecarProcess(['-m', 'sweepft.mirror', 'follow', run, uri, '1'], pathlib.Path(run) / 'logs/mirror.log');"
        "time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(sweep.run.run_dir), sweep.mirror.uri])
    process = sweep.process()
    sweep.run.result()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: not Path(f"/proc/{process}").exists() or zombie(process))
    assert sweep.back(tmp_path) == truth(sweep.run.run_dir)


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_mirrored__restarts_a_dead_process(sweep: Sweep, tmp_path: Path) -> None:
    with sweep.going():
        first = sweep.process()
        os.kill(first, signal.SIGKILL)
        sweep.run.result()

        def another() -> bool:
            sweep.row()
            return sweep.process() != first

        until(another)
    assert sweep.back(tmp_path) == truth(sweep.run.run_dir)


def test_mirrored__gives_up_after_several_deaths(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_MIRROR", "sweepft.no_such_module")
    with sweep.going():

        def given_up() -> bool:
            sweep.row()
            return "has died 3 times" in sweep.said

        until(given_up)
    assert sweep.said.count("has died") == 1


def test_mirrored__one_process_at_a_time(sweep: Sweep) -> None:
    with sweep.going():
        sweep.process()
        with pytest.raises(LedgerLocked):
            copy_once(sweep.run.run_dir, sweep.mirror.uri)
    assert copy_once(sweep.run.run_dir, sweep.mirror.uri) > 0


def test_check_mirror__refuses_unwritable_mirror(run: MirroredRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MirrorError) as refused:
        check_mirror(Mirror(uri=(tmp_path / "file" / "mirror").as_uri()), run.run_dir)
    assert "ot a directory" in str(refused.value)
    check_mirror(Mirror(uri=(tmp_path / "mirror").as_uri()), tmp_path / "new")
    check_mirror(None, tmp_path / "new")
    assert list((tmp_path / "mirror").rglob("probe*")) == []


def test_check_mirror__refuses_silent_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_PATIENCE", 0.01)
    with raises(MirrorError, "mirror.unreachable"):
        check_mirror(Mirror(uri=(tmp_path / "mirror").as_uri()), tmp_path / "new")


def test_sidecars__load_no_pyarrow() -> None:
    code = (
        "import sys, sweepft.driver.start, sweepft.driver.start, sweepft.cli.main, sweepft.driver.progress;"
        "sys.exit(any(name in sys.modules for name in ('sweepft.mirror.store', 'sweepft.mirror.copy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mirror_command__copies_there_and_back(run: MirroredRun, tmp_path: Path) -> None:
    run.result(objective=2.0)
    run.weights("t000")
    uri = (tmp_path / "mirror").as_uri()
    refused = CliRunner().invoke(cli, ["mirror", str(run.run_dir)])
    assert isinstance(refused.exception, MirrorError)
    assert f"sweepft mirror {run.run_dir} s3://bucket/folder" in str(refused.exception)
    sent = CliRunner().invoke(cli, ["mirror", str(run.run_dir), uri])
    assert sent.exit_code == 0, sent.output
    assert "up to date" in sent.output
    brought = CliRunner().invoke(cli, ["fetch", uri, str(tmp_path / "back")])
    assert brought.exit_code == 0, brought.output
    assert truth(tmp_path / "back") == truth(run.run_dir)
    assert (tmp_path / "back" / "report.html").is_file()
    assert f"to resume: sweepft resume {tmp_path / 'back'}" in brought.output
