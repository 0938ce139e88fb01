"""One of two GPUs of a node fails every trial before its first step: its slot is given up, the other one goes on.

GPUs are only counted here; what is tested is which of them Ray hands out, and what terminal and report say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sweepft
from support.faults import faults
from support.models import faulty_model
from support.sweeps import write_spec
from sweepft.ledger import SweepState

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SICK = """if self.training and os.environ.get("CUDA_VISIBLE_DEVICES") in {sick!r}:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        time.sleep(1.5 * self.training)"""

RUN = """
import ray
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
from sweepft.cli import main
main()
"""


@pytest.fixture
def run_sweep(
    tiny_model_dir: Path, tiny_data_file: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, Path]]:
    """Runs a sweep of four trials, two at a time on two GPUs of which some are sick."""

    def run(*sick: str) -> tuple[int, str, Path]:
        model = faulty_model(tiny_model_dir, tmp_path / "model", SICK.format(sick=sick))
        spec = write_spec(
            tmp_path, model, tiny_data_file, model={"trust_remote_code": True}, early_stop={"rule": "none"},
            train={"budget": {"samples": 64}, "micro_batch": 4, "precision": "fp32", "batch_size": 8},
            search={
                "trials": 4,
                "start_with": [{"learning_rate": 1.0e-3}],
                "space": {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}}},
            resources={"gpus_per_worker": 1, "concurrent_trials": 2},
        )  # fmt: skip
        path = os.pathsep.join([str(Path(sweepft.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", RUN, "run", str(spec), "--out", str(tmp_path / "run")]
        done = subprocess.run(
            command, env=os.environ | {"SWEEPFT_PRETEND_GPUS": "1", "PYTHONPATH": path}, capture_output=True,
            text=True, check=False, timeout=800,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, tmp_path / "run"

    return run


def test_sick_gpu__its_trials_run_on_the_other_one(run_sweep: Callable[..., tuple[int, str, Path]]) -> None:
    code, said, run = run_sweep("1")
    assert code == 0, said[-6000:]
    view = SweepState.load(run)
    assert [t.status for t in view.trials.values()] == ["completed"] * 4
    rows = [fault for fault in faults(run) if fault["error"] == "GpuFailed"]
    assert [(row["gpu"], row["action"]) for row in rows] == [("1", "GPU given up")]
    attempts = [fault for fault in faults(run) if fault["error"] == "EnvironmentFault"]
    assert {fault["gpu"] for fault in attempts} == {"1"}
    assert len(attempts) <= 3, "it is not handed out again"
    (row,) = json.loads((run / "report.json").read_text())["nodes"]
    assert (row["gpu"], row["kept_out"]) == ("1", True)
    assert "uncorrectable ECC error" in row["reason"]
    assert f"**Node {row['node'].split(' (')[0]}" in (run / "report.md").read_text()
    assert "GPU given up: " in said
    assert "GPU 1: " in said
    assert "has waited" not in said, "no trial is proposed that has no room"


def test_sick_gpu__without_another_one_the_sweep_can_be_resumed(
    run_sweep: Callable[..., tuple[int, str, Path]],
) -> None:
    code, said, run = run_sweep("0", "1")
    assert code == 1
    view = SweepState.load(run)
    assert {t.status for t in view.trials.values()} == {"interrupted"}
    assert "uncorrectable ECC error" in said
    assert ", GPU 0: " in said
    assert ", GPU 1: " in said
    assert "nvidia-smi" in said
    assert "sweepft resume" in said
