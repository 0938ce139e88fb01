"""Faults of a machine do not fail trials; settings that cannot start fail their trial alone; failed trials run again."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from rich.console import Console

from support.faults import faults, leaks
from support.models import faulty_model
from support.sweeps import run_spec, write_spec
from support.terminals import sweepft
from sweepft.driver.progress import status_of
from sweepft.driver.start import resume_sweep
from sweepft.ledger import SweepState, read_ledger

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

SEARCH = {
    "trials": 3,
    "start_with": [{"lora.rank": 2}, {"lora.rank": 4}, {"lora.rank": 8}],
    "space": {"lora.rank": {"choice": [2, 4, 8]}},
}


def sweep_of(fault, tiny_model_dir, tiny_data_file, tmp_path):
    model = faulty_model(tiny_model_dir, tmp_path / "model", fault)
    return write_spec(
        tmp_path, model, tiny_data_file, search=SEARCH, model={"trust_remote_code": True},
        train={"budget": {"samples": 32}, "micro_batch": 4, "precision": "fp32", "batch_size": 8, "lora": {}},
        early_stop={"rule": "none"}, resources={"concurrent_trials": 1},
    )  # fmt: skip


def go_on(run, **options):
    with (run.parent / "resume.txt").open("w") as console:
        return resume_sweep(run, console=Console(file=console), **options)


def statuses(done):
    return {name: trial.status for name, trial in done.view.trials.items()}


def test_environment__no_trial_fails_where_none_can_take_a_step(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path
):
    broken = tmp_path / "broken"
    broken.touch()
    fault = f"if self.training and os.path.exists({str(broken)!r}): raise RuntimeError('broken machine')"
    spec = sweep_of(fault, tiny_model_dir, tiny_data_file, tmp_path)
    done = run_spec(spec, tmp_path / "run")
    assert (done.status, done.exit_code) == ("interrupted", 1), (
        "Slurm does not requeue it on the same machine"
    )
    assert "broken machine" in done.fault
    assert set(statuses(done).values()) == {"interrupted"}
    assert status_of(tmp_path / "run")["resume"]
    broken.unlink()
    assert set(statuses(go_on(tmp_path / "run")).values()) == {"completed"}
    assert leaks() == []


@pytest.mark.full
def test_environment__settings_that_cannot_start_fail_their_trial_alone(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path
):
    mended = tmp_path / "mended"
    fault = (
        f"if not os.path.exists({str(mended)!r}) and any("
        "p.shape[0] == 2 for n, p in self.named_parameters() if 'lora_A' in n): raise ValueError('rank 2')"
    )
    spec = sweep_of(fault, tiny_model_dir, tiny_data_file, tmp_path)
    run = tmp_path / "run"
    done = run_spec(spec, run)
    assert statuses(done) == {"t000": "failed", "t001": "completed", "t002": "completed"}
    assert done.exit_code == 0
    actions = [fault["action"] for fault in faults(run) if fault["trial_id"] == "t000"]
    assert actions[0].startswith("set aside")
    assert actions[-1] == "given up"
    assert statuses(go_on(run)) == statuses(done), "a plain resume leaves failed trials"
    mended.touch()
    again = go_on(run, retry_failed=["t000"])
    assert set(statuses(again).values()) == {"completed"}
    (retry,) = (row for row in read_ledger(run) if row["kind"] == "command")
    assert (retry["command"], retry["trial_id"]) == ("retry", "t000")
    assert [c["command"] for c in json.loads((run / "report.json").read_text())["commands"]] == ["retry"]


@pytest.mark.full
def test_environment__a_compiler_cache_that_cannot_be_written(tiny_model_dir, tiny_data_file, tmp_path):
    search = {"trials": 1, "start_with": [{"batch_size": 8}], "space": {"batch_size": {"choice": [8]}}}
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search=search, early_stop={"rule": "none"},
        train={"budget": {"samples": 64}, "micro_batch": 4, "precision": "fp32", "learning_rate": 1e-3},
        resources={"concurrent_trials": 1},
    )  # fmt: skip
    run, broken = tmp_path / "run", os.environ | {"TORCH_EXTENSIONS_DIR": "/proc/missing"}
    first = sweepft("run", spec, "--out", run, stdout=subprocess.DEVNULL, env=broken)
    assert first.wait(400) == 1
    (trial,) = SweepState.load(run).trials.values()
    assert trial.status == "interrupted"
    reason = read_ledger(run)[-1]["reason"]
    assert "/proc/missing" in reason
    assert "resume" in reason
    assert sweepft("resume", run, stdout=subprocess.DEVNULL).wait(400) == 0
    (trial,) = SweepState.load(run).trials.values()
    assert trial.status == "completed"
