"""A rank hangs during a step: all ranks of the slot write their stacks, and new ranks continue the trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.faults import faults, leaks, story
from support.models import HANG_ONCE, faulty_model
from support.sweeps import run_spec, write_spec

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


def test_hanging_rank__leaves_its_stack_and_is_replaced(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    def sweep(name: str, model: Path):
        folder = tmp_path / name
        folder.mkdir()
        spec = write_spec(
            folder, model, tiny_data_file, model={"trust_remote_code": True},
            search={"trials": 1, "start_with": [{"learning_rate": 3.0e-3}],
                    "space": {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}}},
            train={"batch_size": 16}, resources={"workers_per_trial": 2, "concurrent_trials": 1},
            faults={"hang_seconds": 2.0},
        )  # fmt: skip
        return run_spec(spec, folder / "run")

    flag = str(tmp_path / "hung")
    hanging = faulty_model(tiny_model_dir, tmp_path / "model", HANG_ONCE.format(call=8, rank=1, flag=flag))
    done, calm = sweep("hanging", hanging), sweep("calm", tiny_model_dir)
    found = story(done.view)
    assert found["t000"][1:5] == story(calm.view)["t000"][1:5]
    (fault,) = faults(done.run_dir)
    assert (fault["error"], fault["action"]) == ("RankHung", "ranks rebuilt")
    words, _, stacks = fault["message"].partition("; stacks: ")
    assert "gave no answer" in words
    logs = [Path(file) for file in stacks.split(", ")]
    assert [log.name.rpartition("-")[2] for log in logs] == ["rank0.log", "rank1.log"]
    assert all(log.parent == done.run_dir / "logs" for log in logs)
    assert "modeling_faulty.py" in logs[1].read_text(), "where the hanging rank stood"
    assert "collective" in logs[0].read_text() or "distributed" in logs[0].read_text(), "the other one waited"
    assert leaks() == []
