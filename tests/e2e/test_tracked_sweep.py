"""A real sweep with trackers: they hold the same values as the ledger."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from support.sweeps import run_spec, write_spec
from sweepft.replay.sources import read_scalars

pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_trackers__every_installed_one_holds_the_ledgers_curves(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    installed = {name for name in ("wandb", "mlflow") if importlib.util.find_spec(name) is not None}
    track = {"tensorboard": True} | {name: {} for name in installed}
    spec = write_spec(tmp_path, tiny_model_dir, tiny_data_file, track=track, search={"trials": 4})
    run = tmp_path / "run"
    done = run_spec(spec, run)
    assert done.exit_code == 0
    assert "warning: tracking" not in (tmp_path / "run.txt").read_text()
    assert len(done.view.trials) == 4
    for name, trial in done.view.trials.items():
        found = [s for file in (run / "tensorboard" / name).iterdir() for s in read_scalars(file)]
        for key in ("loss", "grad_norm", "lr"):
            points = sorted((s.step, s.value) for s in found if s.tag == f"train/{key}")
            assert [step for step, _ in points] == trial.history["samples_seen"].tolist()
            np.testing.assert_array_equal([v for _, v in points], trial.history[key].astype(np.float32))
        validation = sorted((s.step, s.value) for s in found if s.tag == "validation/objective")
        assert validation == [(e["samples_seen"], np.float32(e["objective"])) for e in trial.evals]
    if "wandb" in installed:
        assert len(list((run / "wandb").glob("offline-run-*"))) == 4
    if "mlflow" in installed:
        assert (run / "mlflow.db").stat().st_size > 0
