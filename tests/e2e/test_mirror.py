"""A machine is lost with its disk: the run is restored from its S3 mirror and resumes with identical results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.faults import story
from support.s3 import SECRET, S3Server, needs_s3
from support.sweeps import write_spec
from sweepft.ledger import SweepState, ledger_path, read_ledger, winner
from sweepft.mirror.status import read_status
from sweepft.mirror.store import Manifest, Store, newest

pytestmark = [pytest.mark.full, needs_s3]

TRIALS = 5


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def spec(tiny_model_dir: Path, tiny_data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spec(
        tmp_path_factory.mktemp("mirror"), tiny_model_dir, tiny_data_file,
        train={"budget": {"samples": 600}}, search={"trials": TRIALS}, keep={"top": 2}, checkpoint="rungs",
        resources={"concurrent_trials": 1},
    )  # fmt: skip


def sweepft(s3: S3Server, *arguments: str | Path, code: int = 0) -> str:
    process = start(s3, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


def start(s3: S3Server, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sweepft.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=s3.environment
    )


@pytest.fixture(scope="module")
def undisturbed(spec: Path, s3: S3Server) -> Path:
    run = spec.parent / "undisturbed"
    sweepft(s3, "run", spec, "--out", run)
    return run


def what_is_mirrored(s3: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, dict[str, str]]:
    """The ledger as the mirror has it now, and the digests of its other files."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = Store(uri)
    found = newest(store) or Manifest()
    parts = found.grown.get("ledger/ledger.jsonl", ())
    with contextlib.suppress(FileNotFoundError):  # a longer part has taken its place since
        return b"".join(store.read(part.name) for part in parts), {n: k.sha256 for n, k in found.kept.items()}
    return b"", {}


def best_two(rows: bytes) -> list[str]:
    """The trials whose weights a ledger says are kept."""
    ends = [row for line in rows.splitlines() if (row := json.loads(line))["kind"] == "end"]
    done = [row for row in ends if row["status"] == "completed"]
    return [row["trial_id"] for row in sorted(done, key=lambda row: row["objective"])[:2]]


def lose_the_machine(driver: subprocess.Popen[str], run: Path) -> None:
    """SIGKILL driver and copying process at once, and remove the disk."""
    note = read_status(run)
    assert note is not None
    copying = psutil.Process(note.process)
    os.kill(copying.pid, signal.SIGKILL)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)
    shutil.rmtree(run)
    deadline = time.monotonic() + 30
    while run.exists() and time.monotonic() < deadline:  # a rank that is still ending may write into it
        shutil.rmtree(run, ignore_errors=True)
        time.sleep(0.2)


@pytest.mark.timeout(1800)
def test_mirror__lost_machine_loses_nothing_mirrored(
    s3: S3Server, spec: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, run = s3.uri("lost"), tmp_path / "lost"
    driver = start(s3, "run", spec, "--out", run, "--set", f"mirror={{uri: {uri!r}, seconds: 1}}")
    while True:
        assert driver.poll() is None, driver.communicate()[0]
        rows, kept = what_is_mirrored(s3, uri, monkeypatch)
        wanted = best_two(rows)
        if len(wanted) == 2 and all(f"weights/{name}/model.safetensors" in kept for name in wanted):
            break
        time.sleep(0.2)
    lose_the_machine(driver, run)

    back = tmp_path / "elsewhere" / "back"
    said = sweepft(s3, "fetch", uri, back)
    assert f"to resume: sweepft resume {back}" in said
    assert ledger_path(back).read_bytes().startswith(rows), "nothing that was mirrored is lost"
    for name in wanted:
        weights = f"weights/{name}/model.safetensors"
        assert hashlib.sha256((back / weights).read_bytes()).hexdigest() == kept[weights]
    view = SweepState.load(back)
    assert view.status == "crashed"
    assert winner(view) is not None
    assert (back / "best" / "best.json").is_file()
    assert (back / "report.html").is_file()

    sweepft(s3, "resume", back)
    assert "saved" in sweepft(s3, "replay", back, "--rule", "median", "--cut-runs")
    assert story(back) == story(undisturbed)
    ends = [r["trial_id"] for r in read_ledger(back) if r["kind"] == "end" and r["status"] != "interrupted"]
    assert sorted(ends) == [f"t{i:03d}" for i in range(TRIALS)], "no trial ends twice, none is lost"

    again = tmp_path / "again"
    sweepft(s3, "fetch", uri, again)
    assert ledger_path(again).read_bytes() == ledger_path(back).read_bytes(), "the mirror went on, too"
    for name in ("weights", "best"):
        there = {str(p.relative_to(back)): p.read_bytes() for p in (back / name).rglob("*.safetensors")}
        assert there
        assert there == {
            str(p.relative_to(again)): p.read_bytes() for p in (again / name).rglob("*.safetensors")
        }
    found = [p for folder in (back, again) for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    assert [p for p in found if SECRET.encode() in p.read_bytes()] == []


def test_mirror__unusable_one_is_refused_before_the_start(
    s3: S3Server, spec: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for uri, words in {
        "s3://nobodys-bucket/x": "NO_SUCH_BUCKET",
        f"{s3.uri('x')}?endpoint_override=127.0.0.1:9&scheme=http": "NETWORK_CONNECTION",
        "s3://key:secret@sweeps/x": "mirror.uri",
        f"{s3.uri('x')}?colour=red": "Unexpected query parameter",
    }.items():
        said = sweepft(s3, "run", spec, "--out", tmp_path / "run", "--set", f"mirror.uri={uri}", code=2)
        assert words in said
        assert not (tmp_path / "run").exists()
    uri = s3.uri("taken")
    sweepft(s3, "mirror", undisturbed, uri)
    said = sweepft(s3, "run", spec, "--out", tmp_path / "run", "--set", f"mirror.uri={uri}", code=2)
    assert "holds another run" in said
    assert not (tmp_path / "run").exists()
