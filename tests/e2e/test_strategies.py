"""Stacked and phased data with a swept weight: real trials, the report and the export."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support.sweeps import run_spec, write_spec
from sweepft.data import TokenSet, sample_order
from sweepft.export import write_best
from sweepft.spec import TrainConfig, from_dict

pytestmark = [pytest.mark.ray, pytest.mark.full]

BUDGET = 32


@pytest.fixture(scope="module")
def finished(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    sources = [("old", ["arithmetic", "strings"]), ("new", ["sorting", "units", "dates"])]
    data = {
        "train": [{"path": str(tiny_data_file), "domains": own, "domain": name} for name, own in sources],
        "validation": [{"name": name, "fraction": 0.15, "domains": [name]} for name, _ in sources],
        "phases": [{"domains": ["old"]}, {"domains": ["new"]}],  # a weight makes its phase longer
        "replay": 0.2,
    }
    space = {
        "data.strategy": {"choice": ["stacked", "phased"]},
        "data.mixture.new": {"choice": [1.0, 3.0]},
        "learning_rate": {"choice": [1.0e-3, 3.0e-3, 1.0e-2]},
    }
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file, data=data, early_stop={"rule": "none", "rungs": [0.5]},
        train={"budget": {"samples": BUDGET}, "batch_size": 8},
        search={"trials": 12, "sampler": "grid", "start_with": [], "space": space}, resources={"concurrent_trials": 1},
    )  # fmt: skip
    return folder / "run", run_spec(spec, folder / "run")


def test_data_order__each_strategy_and_weight_has_its_own(finished):
    """Orders are those that anyone can make again; the unweighted stacked one is the plain one."""
    _, done = finished
    prepared = done.view.header["data"]
    tokens = TokenSet(prepared["train"]["path"])
    orders = {}
    for trial in done.view.trials.values():
        assert trial.status == "completed"
        assert trial.samples_seen == BUDGET
        settings = TrainConfig.from_dict(trial.train_config, BUDGET)
        assert trial.data_order == sample_order(tokens, settings.seed, settings.data, BUDGET).digest
        key = trial.params["data.strategy"], trial.params["data.mixture.new"]
        assert orders.setdefault(key, trial.data_order) == trial.data_order
    assert len(orders) == len(set(orders.values())) == 4
    assert orders["stacked", 1.0] == prepared["order"]


def test_report__compares_phased_with_stacked(finished):
    run, _ = finished
    report = json.loads((run / "report.json").read_text())
    rows = [row for row in report["findings"] if row["finding"] == "data order"]
    assert {row["metric"] for row in rows} >= {"objective", "old", "new"}
    for row in rows:
        assert row["n"] == 12
        assert row["low"] < row["effect"] < row["high"]
        assert row["unit"] == "phased against stacked"


def test_export__script_feeds_the_same_phases(finished, tmp_path):
    """A phased, weighted trial made the winner: the plain script meets its losses, and the spec its settings."""
    _, done = finished
    wanted = {"data.strategy": "phased", "data.mixture.new": 3.0, "learning_rate": 3.0e-3}
    (trial,) = [t for t in done.view.trials.values() if t.params == wanted]
    done.view.apply({"kind": "end", "trial_id": trial.trial_id, "status": "completed", "objective": 0.0})
    best = write_best(tmp_path, done.view)
    out = tmp_path / "out"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(best / "train.py"), "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "step" in line]
    assert losses == pytest.approx(trial.history["loss"].tolist(), abs=1e-4)
    assert "stacked" not in (best / "spec.yaml").read_text()


def test_resolved_spec__is_complete(finished):
    run, done = finished
    spec = from_dict(done.view.spec)
    assert [phase.domains for phase in spec.data.phases] == [("old",), ("new",)]
    assert "strategy" not in done.view.spec["data"], "what is swept stays open"
    assert (run / "best" / "train.py").is_file()
