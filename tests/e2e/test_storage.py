"""Full, read-only or slow storage: a sweep ends cleanly or continues, and finished results are kept."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from support.faults import faults, leaks, once, rows_of, story
from support.sweeps import run_spec, write_spec
from sweepft.driver.progress import status_of
from sweepft.driver.start import resume_sweep
from sweepft.errors import StorageError
from sweepft.ledger import SweepState

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

SEARCH = {
    "trials": 2,
    "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
    "space": {"batch_size": {"choice": [8, 16]}, "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]}},
}


@contextlib.contextmanager
def small_disk(at: Path, options: str):
    """A file system in memory of its own; skips where none can be mounted."""
    at.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False)


@pytest.fixture
def spec(tiny_model_dir, tiny_data_file, tmp_path):
    return write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search=SEARCH, resources={"concurrent_trials": 1},
        checkpoint="rungs",
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file, search=SEARCH, resources={"concurrent_trials": 1},
        checkpoint="rungs",
    )  # fmt: skip
    return story(run_spec(spec, folder / "run").view)


def go_on(run: Path) -> SweepState:
    with (run.parent / "resume.txt").open("w") as console:
        return resume_sweep(run, console=Console(file=console)).view


def check_ended_cleanly(run: Path, error: StorageError) -> None:
    assert "No space left on device" in str(error)
    assert str(run) in str(error)
    assert "Free space or make the folder writable, then resume the run." in str(error)
    view = SweepState.load(run)
    assert {t.status for t in view.trials.values()} <= {"completed", "stopped", "interrupted"}, (
        "none has failed"
    )
    assert status_of(run)["resume"]
    assert leaks() == []


def test_storage__full_ledger_disk_ends_the_sweep_resumable(undisturbed, spec, tmp_path):
    with small_disk(tmp_path / "disk", "size=48m") as disk:
        run, ballast = disk / "run", disk / "ballast"

        def fill(_: bool) -> None:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as f:
                while True:
                    f.write(bytes(4096))

        def two_trials_in() -> bool:
            return rows_of(run, "end") >= 1 and rows_of(run, "steps") >= 5

        with once(two_trials_in, fill) as filled, pytest.raises(StorageError) as raised:
            run_spec(spec, run)
        assert filled
        check_ended_cleanly(run, raised.value)
        finished = {name: end for name, end in story(run).items() if end[1] in ("completed", "stopped")}
        assert finished, "what was finished is kept"
        ballast.unlink()
        assert story(go_on(run)) == undisturbed


def test_storage__full_weights_disk_keeps_the_losses(undisturbed, spec, tmp_path):
    run = tmp_path / "run"
    with small_disk(run / "weights", "size=64k"), pytest.raises(StorageError) as raised:
        run_spec(spec, run)
    check_ended_cleanly(run, raised.value)
    view = SweepState.load(run)
    assert view.trials["t000"].status == "completed", "only its weights are missing"
    assert view.status == "interrupted"
    assert "No space left" in view.finish["reason"]
    assert story(go_on(run)) == undisturbed


def test_storage__full_disk_of_ranks_fails_no_trial(undisturbed, spec, tmp_path):
    run = tmp_path / "run"
    with small_disk(run / "base", "size=64k"), pytest.raises(StorageError) as raised:
        run_spec(spec, run)
    check_ended_cleanly(run, raised.value)
    (fault,) = faults(run)
    assert fault["error"] == "RankCannotWrite"
    assert story(go_on(run)) == undisturbed


@pytest.mark.parametrize(
    ("options", "then", "words"),
    [
        ("size=48m,nr_inodes=3", None, "No space left on device"),
        pytest.param("size=64k", None, "GB free and a checkpoint takes", marks=pytest.mark.full),
        pytest.param("size=48m", "remount,ro", "Read-only file system", marks=pytest.mark.full),
    ],
    ids=["fails half-way", "too little space", "read-only"],
)
def test_storage__unwritten_checkpoint_is_noted(undisturbed, spec, tmp_path, options, then, words):
    run = tmp_path / "run"
    with small_disk(run / "checkpoints", options) as disk:
        if then is not None:
            subprocess.run(["mount", "-o", then, str(disk)], check=True)
        done = run_spec(spec, run)
        assert not list(disk.glob("*/[0-9]*")), "no half-written state counts"
    assert story(done.view) == undisturbed
    assert {(f["error"], f["action"], f["lost_seconds"]) for f in faults(run)} == {
        ("StateNotWritten", "went on without", 0.0)
    }
    assert any(words in f["message"] for f in faults(run))
    assert all(len(t.attempts) == 1 for t in done.view.trials.values())


def test_storage__slow_fsync_only_at_trial_ends(undisturbed, spec, tmp_path, monkeypatch):
    """Every sync of the driver takes half a second, as on a busy NFS server."""
    waits, sync = [], os.fsync

    def slow(descriptor: int) -> None:
        waits.append(descriptor)
        time.sleep(0.5)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    done = run_spec(spec, tmp_path / "run")
    assert story(done.view) == undisturbed
    ends = rows_of(tmp_path / "run", "end")
    assert len(waits) <= ends + 8, "one for each end, and a few at the begin and the end of the sweep"
