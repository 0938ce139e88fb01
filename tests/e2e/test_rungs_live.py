"""Rungs of a real sweep: validation loss is computed at exactly the step at which a trial is judged."""

from __future__ import annotations

import pytest

from support.sweeps import run_spec, write_spec
from sweepft.ledger import read_ledger

pytestmark = pytest.mark.ray

RUNGS = (0.07, 0.14, 0.28)


def test_sweep__judges_each_rung_by_its_own_validation_loss(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path
):
    spec = write_spec(
        tmp_path,
        tiny_model_dir,
        tiny_data_file,
        train={"budget": {"samples": 100}, "micro_batch": 1, "precision": "fp32"},
        search={
            "trials": 2,
            "start_with": [],
            "space": {"batch_size": {"choice": [1]}, "learning_rate": {"log_uniform": [1.0e-4, 1.0e-3]}},
        },
        early_stop={"rule": "median", "rungs": list(RUNGS), "min_steps": 2, "min_peers": 1},
        resources={"concurrent_trials": 1},
    )
    run_spec(spec, tmp_path / "run")
    rows = read_ledger(tmp_path / "run")
    evaluated = {(r["trial_id"], r["rung"]): r for r in rows if r["kind"] == "eval"}
    decisions = [r for r in rows if r["kind"] == "decision" and r["rung"] is not None]
    assert [d["rung"] for d in decisions][:3] == list(RUNGS)
    for decision in decisions:
        evaluation = evaluated[decision["trial_id"], decision["rung"]]
        assert decision["step"] == evaluation["step"]
        assert decision["evidence"]["objective"] == evaluation["objective"]
