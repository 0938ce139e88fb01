"""The examples of the documentation, each run in a process of its own, and those in docstrings."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


NAMES = ("plain_loop.py", "trainer_callback.py", "optuna_pruner.py")


def run(name: str, folder: Path) -> subprocess.CompletedProcess:
    folder.mkdir()
    return subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=1500,  # only against hanging: machines are shared
        check=False,
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each example prints; two run at a time, for most of theirs is waiting for processes to start."""
    folder = tmp_path_factory.mktemp("examples")
    with ThreadPoolExecutor(2) as both:
        done = dict(zip(NAMES, both.map(lambda name: run(name, folder / name), NAMES), strict=True))
    for one in done.values():
        assert one.returncode == 0, one.stdout[-3000:] + one.stderr[-3000:]
    return {name: one.stdout for name, one in done.items()}


def saved(output: str) -> float:
    found = re.search(r"trials_saved=([\d.]+)", output)
    assert found, output
    return float(found[1])


@pytest.mark.full
@pytest.mark.ray
def test_examples__a_plain_loop_in_ray(outputs: dict[str, str]) -> None:
    output = outputs["plain_loop.py"]
    assert saved(output) > 1.5
    assert " stop at step " in output


@pytest.mark.full
@pytest.mark.ray
def test_examples__a_transformers_trainer_in_ray(outputs: dict[str, str]) -> None:
    output = outputs["trainer_callback.py"]
    assert saved(output) > 0.7
    assert " stop at step " in output
    assert "'failed'" not in output


@pytest.mark.full
def test_examples__an_optuna_study(outputs: dict[str, str]) -> None:
    found = re.search(r"completed=(\d+) pruned=(\d+) best=([\d.]+)", outputs["optuna_pruner.py"])
    assert found
    assert int(found[2]) > int(found[1])
    assert float(found[3]) < 1.1


@pytest.mark.parametrize("module", ["rules", "ray_scheduler", "optuna_pruner"])
def test_examples__docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"sweepft.early_stopping.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_examples__every_file_is_run_here() -> None:
    assert set(NAMES) == {p.name for p in EXAMPLES.glob("*.py")}
