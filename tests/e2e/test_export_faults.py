"""A fault while weights are written: its own cause is reported, and a trial counts as exported only if it is."""

from __future__ import annotations

import pytest

from support.faults import faults
from support.models import DIE_WHILE_SAVING, RAISE_WHILE_SAVING, SAVE_ANOTHER_WEIGHT, faulty_model
from support.sweeps import run_spec, write_spec

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

ONE_TRIAL = {"trials": 1, "start_with": [], "space": {"learning_rate": {"choice": [3.0e-3]}}}
SETTINGS = {"budget": {"samples": 48}, "micro_batch": 4, "precision": "fp32", "batch_size": 16}


def run(tmp_path, model, data, name="run", **sections):
    (tmp_path / name).mkdir()
    spec = write_spec(
        tmp_path / name, model, data, search=ONE_TRIAL, train=SETTINGS,
        resources={"workers_per_trial": 1, "concurrent_trials": 1}, model={"trust_remote_code": True}, **sections,
    )  # fmt: skip
    done = run_spec(spec, tmp_path / name / "run")
    return (
        done.view.trials["t000"],
        faults(tmp_path / name / "run"),
        tmp_path / name / "run" / "weights" / "t000",
    )


def test_export__rank_that_dies_while_writing_is_replaced(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    from transformers import AutoModelForCausalLM

    flag = str(tmp_path / "died")
    model = faulty_model(tiny_model_dir, tmp_path / "model", saving=DIE_WHILE_SAVING.format(flag=flag))
    trial, (fault,), weights = run(tmp_path, model, tiny_data_file, checkpoint="rungs")
    assert (fault["error"], fault["action"]) == ("RankDied", "ranks rebuilt")
    assert "export: rank 0 died" in fault["message"]
    assert trial.status == "completed"
    AutoModelForCausalLM.from_pretrained(weights, trust_remote_code=True)
    calm, none, _ = run(tmp_path, model, tiny_data_file, name="calm")  # the flag stands: nothing dies
    assert none == []
    assert calm.objective == trial.objective
    assert calm.history["loss"].tolist() == trial.history["loss"].tolist()


@pytest.mark.parametrize(
    ("saving", "error", "word", "actions"),
    [
        (RAISE_WHILE_SAVING, "RankFailed", "injected", ["ranks rebuilt", "given up"]),
        (SAVE_ANOTHER_WEIGHT, "ExportMismatch", "model.norm.weight", ["given up"]),
    ],
)
def test_export__trial_that_cannot_be_exported_fails(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path, saving, error, word, actions
):
    model = faulty_model(tiny_model_dir, tmp_path / "model", saving=saving)
    trial, found, weights = run(tmp_path, model, tiny_data_file)
    assert trial.status == "failed"
    assert [(f["error"], f["action"]) for f in found] == [(error, action) for action in actions]
    assert all(f["message"].startswith("export: rank 0 raised") for f in found)
    assert word in trial.reason
    assert not weights.exists()
