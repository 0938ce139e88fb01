"""A driver is killed at any moment and resumed: the sweep ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.faults import story
from support.sweeps import write_spec
from sweepft.ledger import SweepState, read_ledger
from sweepft.search import STUDY_FILE, open_study

TRIALS = 5


def sweepft(*arguments: str | Path, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "sweepft.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


def rows_in(run: Path) -> int:
    ledger = run / "ledger" / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def kill_after(process: subprocess.Popen, run: Path, rows: int) -> None:
    while rows_in(run) < rows and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def spec(tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    return write_spec(
        folder,
        tiny_model_dir,
        tiny_data_file,
        resources={"concurrent_trials": 1},
        search={
            "trials": TRIALS,
            "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
            "space": {
                "batch_size": {"choice": [8, 16]},
                "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]},
                "schedule": {"choice": ["constant", "cosine"]},
            },
        },
    )


@pytest.fixture(scope="module")
def undisturbed(spec):
    run = spec.parent / "undisturbed"
    finish(sweepft("run", spec, "--out", run))
    return run


def check_resumed(run: Path, undisturbed: Path) -> None:
    assert story(run) == story(undisturbed)
    rows = read_ledger(run)
    ends = [r["trial_id"] for r in rows if r["kind"] == "end" and r["status"] != "interrupted"]
    assert sorted(ends) == [f"t{i:03d}" for i in range(TRIALS)], "no trial ends twice, none is lost"
    last_end = {r["trial_id"]: r["seq"] for r in rows if r["kind"] == "end"}
    trained_after = [r for r in rows if r["kind"] == "steps" and r["seq"] > last_end[r["trial_id"]]]
    assert trained_after == [], "no finished trial is trained again"
    study, _ = open_study(run / STUDY_FILE, SweepState.load(run).name)
    proposed = {t.user_attrs["trial_id"]: t.params for t in study.trials if "trial_id" in t.user_attrs}
    other, _ = open_study(undisturbed / STUDY_FILE, SweepState.load(undisturbed).name)
    assert proposed == {
        t.user_attrs["trial_id"]: t.params for t in other.trials if "trial_id" in t.user_attrs
    }


def kill_and_resume(spec: Path, undisturbed: Path, run: Path, kills: int, seed: int) -> None:
    total, moments = rows_in(undisturbed), random.Random(seed)
    at = sorted(moments.sample(range(2, total - 1), kills))
    kill_after(sweepft("run", spec, "--out", run), run, at[0])
    for rows in at[1:]:
        kill_after(sweepft("resume", run), run, rows)
    status = json.loads(finish(sweepft("status", run, "--json")))
    assert status["status"] == "crashed"
    assert status["resume"]
    finish(sweepft("resume", run))
    check_resumed(run, undisturbed)


@pytest.mark.chaos
def test_resume__killed_equals_undisturbed(spec, undisturbed):
    kill_and_resume(spec, undisturbed, spec.parent / "killed", kills=2, seed=int(os.environ.get("SEED", "1")))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [11, 12])
def test_resume__killed_at_five_random_moments(spec, undisturbed, seed):
    kill_and_resume(spec, undisturbed, spec.parent / f"killed-{seed}", kills=5, seed=seed)


@pytest.mark.full
def test_resume__after_ctrl_c_and_sigterm(spec, undisturbed):
    """SIGTERM is what Slurm, Kubernetes and a stopped Ray Job send; Ray has a handler of its own for it."""
    run = spec.parent / "interrupted"
    for number, command in ((signal.SIGTERM, ("run", spec, "--out", run)), (signal.SIGINT, ("resume", run))):
        goal, process = rows_in(run) + 12, sweepft(*command)
        while rows_in(run) < goal and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        output = finish(process, code=130)
        assert "stopping at the next rungs" in output
        view = SweepState.load(run)
        assert view.status == "interrupted"
        assert (run / "report.html").exists()
        assert not {"running", "failed"} & {t.status for t in view.trials.values()}
        assert "to resume: sweepft resume" in finish(sweepft("status", run))
    finish(sweepft("resume", run))
    check_resumed(run, undisturbed)


@pytest.mark.full
def test_resume__extends_but_does_not_change(undisturbed, tmp_path):
    import shutil

    run = tmp_path / "extended"
    shutil.copytree(undisturbed, run)
    refused = finish(sweepft("resume", run, "--set", "train.budget.samples=50"), code=2)
    assert "train.budget.samples: cannot change in a run that has started" in refused
    assert "(got 50)" in refused
    finish(sweepft("resume", run, "--set", f"search.trials={TRIALS + 1}"))
    view = SweepState.load(run)
    assert list(view.trials) == [f"t{i:03d}" for i in range(TRIALS + 1)]
    before = story(undisturbed)
    assert {k: v for k, v in story(run).items() if k in before} == before
    assert len(read_ledger(run)) > rows_in(undisturbed)
