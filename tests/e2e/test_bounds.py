"""A real sweep with bounds, a scaled rate and a tied field: what the ledger, the weights and a resume make of them."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from support.sweeps import run_spec, write_spec
from sweepft.driver.start import resume_sweep
from sweepft.ledger import pareto_front, ranking, read_ledger, winner
from sweepft.search import STUDY_FILE, open_study

pytestmark = [pytest.mark.ray, pytest.mark.full]


@pytest.fixture(scope="module")
def done(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    """The trial that starts at a rate of 1e-5 learns next to nothing, so that it does not meet the absolute bound."""
    folder = tmp_path_factory.mktemp("bounds")
    search = {
        "trials": 6,
        "sampler": "tpe",
        "baseline": {"batch_size": 8, "learning_rate": 3.0e-2},
        "start_with": [{"batch_size": 8, "learning_rate": 1.0e-5}],
        "subject_to": {"kept": {"at_most": 0.01, "above": "base"}, "own": {"at_most": 5.0}},
        "space": {
            "batch_size": {"choice": [8, 16]},
            "learning_rate": {"log_uniform": [1.0e-6, 1.0e-1], "at_batch": 8},
        },
        "tied": {"optimizer.eps": {"times": 1.0e-9, "of": "batch_size"}},
    }
    validation = [{"name": "own", "fraction": 0.15}, {"name": "kept", "fraction": 0.1, "weight": 0.0}]
    data = {"train": [{"path": str(tiny_data_file)}], "validation": validation, "max_length": 128}
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file, data=data, search=search, keep={"top": 1, "pareto": 2}
    )
    return run_spec(spec, folder / "run")


def test_bounds__base_model_is_measured_once_on_the_bounded_set(done):
    scores = [row for row in read_ledger(done.run_dir) if row["kind"] == "score"]
    assert [(row["trial_id"], row["what"], row["name"]) for row in scores] == [(None, "validation", "kept")]
    assert scores[0]["reason"] is None
    bound = done.view.bounds.entries[0]
    assert bound.limit == pytest.approx(scores[0]["metrics"]["loss"]["value"] + 0.01)


def test_bounds__decide_who_wins_and_whose_weights_are_kept(done):
    view = done.view
    ranked = [entry.trial for entry in ranking(view) if entry.rank]
    over = [view.violation(trial) for trial in ranked]
    assert over == sorted(over)
    assert view.violation(winner(view)) == min(over)
    kept = {folder.name for folder in (done.run_dir / "weights").iterdir() if folder.is_dir()}
    assert winner(view).trial_id in kept
    points = {t.trial_id: (t.objective, t.losses["kept"], t.losses["own"]) for t in ranked}
    assert kept <= set(pareto_front(points)) | {winner(view).trial_id}
    assert (done.run_dir / "best" / "config.json").is_file()
    report = json.loads((done.run_dir / "report.json").read_text())
    assert {row["trial_id"]: row["weights"] for row in report["bounds"]["front"]} == {
        name: name in kept for name in pareto_front(points)
    }


def test_bounds__trials_train_with_scaled_and_tied_values(done):
    for trial in done.view.trials.values():
        batch, rate = trial.params["batch_size"], trial.params["learning_rate"]
        assert rate == pytest.approx(trial.coordinates["learning_rate"] * math.sqrt(batch / 8))
        assert max(trial.history["lr"]) == pytest.approx(rate)
        assert trial.train_config["optimizer"]["eps"] == pytest.approx(1e-9 * batch)


def test_bounds__are_constraints_of_the_study_also_after_a_resume(done):
    def constraints():
        study, _ = open_study(done.run_dir / STUDY_FILE, "tiny")
        return {t.user_attrs["trial_id"]: t.constraints for t in study.trials if "trial_id" in t.user_attrs}

    before = constraints()
    limits = done.view.bounds.limits
    for trial in done.view.trials.values():
        if trial.status == "completed":
            expected = {name: pytest.approx(trial.losses[name] - limit) for name, limit in limits.items()}
            assert before[trial.trial_id] == expected
    with (done.run_dir.parent / "resumed.txt").open("w") as console:
        after = resume_sweep(done.run_dir, ["search.trials=7"], console=Console(file=console))
    assert len([row for row in read_ledger(done.run_dir) if row["kind"] == "score"]) == 1, "known already"
    assert {name: constraints()[name] for name in before} == before
    assert len(after.view.search_trials) == 7
