"""The examples of the documentation run, each in a process of its own, and stop what should be stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


def run(name: str, tmp_path: Path) -> str:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def saved(output: str) -> float:
    found = re.search(r"trials_saved=([\d.]+)", output)
    assert found, output
    return float(found[1])


@pytest.mark.ray
def test_a_plain_loop_in_ray(tmp_path: Path) -> None:
    output = run("plain_loop.py", tmp_path)
    assert saved(output) > 1.5
    assert " stop at step " in output


@pytest.mark.ray
def test_a_transformers_trainer_in_ray(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    output = run("trainer_callback.py", tmp_path)
    assert saved(output) > 0.7
    assert " stop at step " in output
    assert "'failed'" not in output


def test_an_optuna_study(tmp_path: Path) -> None:
    found = re.search(r"completed=(\d+) pruned=(\d+) best=([\d.]+)", run("optuna_pruner.py", tmp_path))
    assert found
    assert int(found[2]) > int(found[1])
    assert float(found[3]) < 1.1


def test_every_example_is_run_here() -> None:
    named = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text()))
    assert named == {p.name for p in EXAMPLES.glob("*.py")}
