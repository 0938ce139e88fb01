"""A real sweep of four epochs that overfits, where each trial counts by its best evaluation and patience ends trials."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from support.faults import RANK, faults, kill, once, processes, rows_of, story
from support.sweeps import run_spec, write_spec
from support.tiny import tiny_data
from sweepft.ledger import read_ledger, winner
from sweepft.search import STUDY_FILE, open_study

pytestmark = [pytest.mark.ray, pytest.mark.full]

EPOCHS = 4


@pytest.fixture(scope="module")
def spec(tiny_model_dir, tmp_path_factory):
    return overfitting_spec(tmp_path_factory.mktemp("best"), tiny_model_dir)


def overfitting_spec(folder: Path, tiny_model_dir: Path) -> Path:
    """Trials at high rates learn their 24 rows by heart. The test set holds the rows of the validation set."""
    train, held = (tiny_data(folder, rows, seed, f"{seed}.jsonl") for rows, seed in ((24, 1), (24, 2)))
    again = folder / "again.jsonl"
    again.write_bytes(held.read_bytes())
    return write_spec(
        folder,
        tiny_model_dir,
        train,
        data={
            "train": [{"path": str(train)}],
            "validation": [{"name": "own", "path": str(held)}],
            "test": [{"name": "again", "path": str(again)}],
            "max_length": 128,
            "overlap": "drop",
        },
        train={"budget": {"epochs": EPOCHS}, "micro_batch": 2, "precision": "fp32"},
        objective={"at": "best"},
        search={
            "trials": 5,
            "sampler": "random",
            "baseline": {"batch_size": 4, "learning_rate": 3.0e-2},
            "start_with": [{"batch_size": 2, "learning_rate": 3.0e-2}, {"batch_size": 4, "learning_rate": 3.0e-3}],
            "space": {"batch_size": {"choice": [2, 4]}, "learning_rate": {"log_uniform": [1.0e-3, 1.0e-1]}},
        },
        early_stop={"rule": "none", "rungs": [0.125, 0.375], "patience": 2},
        evaluate={"finalists": {"top": 2}},
        resources={"concurrent_trials": 1},
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(spec, ray_here):
    return run_spec(spec, spec.parent / "run")


def test_best__value_is_that_of_the_best_evaluation_everywhere(done):
    study, _ = open_study(done.run_dir / STUDY_FILE, "tiny")
    by_name = {t.user_attrs["trial_id"]: t for t in study.trials if "trial_id" in t.user_attrs}
    report = json.loads((done.run_dir / "report.json").read_text())
    reported = {t["trial_id"]: t for t in report["trials"]}
    assert {t.status for t in done.view.trials.values()} == {"completed"}
    for name, trial in done.view.trials.items():
        losses = [e["objective"] for e in trial.evals]
        assert trial.objective == min(losses) == by_name[name].value == reported[name]["objective"]
        best_so_far = [min(losses[: i + 1]) for i in range(len(losses))]
        assert list(by_name[name].intermediate_values.values()) == best_so_far
        points = [round(e["rung"] * EPOCHS, 3) for e in trial.evals]
        assert points == [0.5, 1, 1.5, 2, 3, 4][: len(points)], "rungs and ends of epochs"
    best = winner(done.view)
    assert best.objective == min(t.objective for t in done.view.trials.values())


def test_best__some_trials_overfit_and_patience_ends_them(done):
    over = [t for t in done.view.trials.values() if t.ended_early_at is not None]
    assert over
    for trial in over:
        (decision,) = [d for d in trial.decisions if d["action"] == "patience"]
        assert trial.samples_seen < EPOCHS * 24
        assert trial.reason == decision["reason"]
        assert [e["counts"] for e in trial.evals][-2:] == [False, False]
    baseline = done.view.baseline
    assert not all(e["counts"] for e in baseline.evals), "it overfits, too"
    assert baseline.samples_seen == EPOCHS * 24


def test_best__kept_weights_are_those_of_the_best_evaluation(done):
    """The finalists' scores on the rows of the validation set are the losses at their best evaluation, bit for bit."""
    scores = {
        row["trial_id"]: row["metrics"]["loss"]["value"]
        for row in read_ledger(done.run_dir)
        if row["kind"] == "score" and row["name"] == "again" and row["trial_id"] is not None
    }
    finalists = [entry["trial_id"] for entry in done.view.finalists["chosen"]]
    assert set(scores) == set(finalists)
    for name in finalists:
        trial = done.view.trials[name]
        assert scores[name] == trial.counted["sets"]["own"]["loss"] == trial.objective
    assert any(not done.view.trials[name].counted["final"] for name in finalists)
    page = (done.run_dir / "report.html").read_text()
    assert "Results by length of training" in page
    assert f"best of {len(winner(done.view).evals)} evaluations" in page


def test_best__ranks_that_die_change_nothing(done, spec, ray_here):
    """The copy of the best weights is lost with the ranks, behind the best evaluation of an overfitting trial."""
    run = spec.parent / "killed"
    at = next(
        i
        for i, row in enumerate(r for r in read_ledger(done.run_dir) if r["kind"] == "eval")
        if not row["counts"]
    )

    def behind_the_best() -> list:
        return processes(RANK) if rows_of(run, "eval") > at else []

    with once(behind_the_best, kill) as killed:
        again = run_spec(spec, run)
    assert killed
    assert [f["error"] for f in faults(run)] == ["RankDied"]
    assert story(again.view) == story(done.view)
    weights = {p.relative_to(done.run_dir) for p in done.run_dir.glob("weights/*/*.safetensors")}
    assert weights
    assert all((run / path).read_bytes() == (done.run_dir / path).read_bytes() for path in weights)
    assert all(math.isfinite(t.objective) for t in again.view.trials.values())
