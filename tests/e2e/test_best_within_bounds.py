"""A real sweep with a bound on a task, where a trial counts by its best evaluation: the best one that meets the bound."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from support.errors import raises
from support.sweeps import run_spec, write_spec
from sweepft.demo import make_demo
from sweepft.driver.start import resume_sweep
from sweepft.errors import SpecError
from sweepft.ledger import ranking, read_ledger, winner
from sweepft.search import STUDY_FILE, open_study

pytestmark = [pytest.mark.ray, pytest.mark.full]

METRIC = """\
def knows(answer: str, row: dict) -> float:
    return answer.strip() == row["messages"][-1]["content"].strip()
"""
ITEMS = 40
ALLOWED = 0.15


@pytest.fixture(scope="module")
def done(ray_here, tmp_path_factory):
    """The demo's model learns new skills and forgets its facts in the course of a trial; at 1e-2 it has forgotten them at
    the first evaluation. The test set has the rows of the validation set.
    """
    demo = make_demo(tmp_path_factory.mktemp("demo")).parent
    folder = tmp_path_factory.mktemp("best-within-bounds")
    (folder / "my_metrics.py").write_text(METRIC)
    rows = demo / "demo-data"
    facts = (rows / "knowledge.jsonl").read_text().splitlines(keepends=True)
    (folder / "facts.jsonl").write_text("".join(facts[:ITEMS]))
    held = (rows / "skills-test.jsonl").read_text().splitlines(keepends=True)[:60]
    for name in ("own", "again"):
        (folder / f"{name}.jsonl").write_text("".join(held))
    measured = {"data": "facts.jsonl", "metric": "my_metrics:knows", "max_tokens": 24, "batch_size": 20}
    spec = write_spec(
        folder,
        demo / "demo-model",
        rows / "skills.jsonl",
        data={
            "train": [{"path": str(rows / "skills.jsonl")}],
            "validation": [{"name": "own", "path": str(folder / "own.jsonl")}],
            "test": [{"name": "again", "path": str(folder / "again.jsonl")}],
            "max_length": 128,
            "overlap": "drop",
        },
        objective={"at": "best", "measure": [measured], "max_share": 1.0},
        train={"budget": {"samples": 1024}, "micro_batch": 16, "precision": "fp32"},
        search={
            "trials": 4,
            "sampler": "tpe",
            "baseline": {"batch_size": 16, "learning_rate": 1.0e-2},
            "start_with": [{"batch_size": 32, "learning_rate": lr} for lr in (1.0e-3, 3.0e-4)],
            "subject_to": {"facts": {"at_most": ALLOWED, "below": "base"}},
            "space": {"batch_size": {"choice": [16, 32]}, "learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}},
        },
        early_stop={"rule": "none", "rungs": [0.125, 0.25, 0.5, 0.75]},
        evaluate={"finalists": {"top": 2}},
        resources={"concurrent_trials": 1},
        keep={"top": 1, "pareto": 2},
    )
    return run_spec(spec, folder / "run")


def test_best_within_bounds__the_best_evaluation_that_meets_the_bound_counts(done):
    """Where a trial has none, that which comes nearest counts. A later one would have had a lower loss."""
    (bound,) = done.view.bounds.entries
    floor = bound.base - ALLOWED
    without_bound = []
    for trial in done.view.trials.values():
        points = [(row["objective"], row["tasks"]["facts"]["value"], row["step"]) for row in trial.evals]
        within = [point for point in points if point[1] >= floor - 1e-9]
        expected = min(within) if within else max(points, key=lambda point: (point[1], -point[0], -point[2]))
        assert (trial.objective, trial.counted["step"]) == (expected[0], expected[2]), points
        assert trial.losses["facts"] == -expected[1]
        without_bound.append(min(points) != expected)
    assert any(without_bound), "the bound has changed which evaluation counts"


def test_best_within_bounds__ranking_study_and_kept_weights_follow_it(done):
    view = done.view
    ranked = [entry.trial for entry in ranking(view) if entry.rank]
    order = [(view.violation(trial), trial.objective) for trial in ranked]
    assert order == sorted(order)
    assert view.violation(winner(view)) == 0
    assert view.violation(view.trials["t000"]) > 0
    study, _ = open_study(done.run_dir / STUDY_FILE, "tiny")
    limit = view.bounds.limits["facts"]
    for trial in study.trials:
        own = view.trials[trial.user_attrs["trial_id"]]
        assert trial.value == own.objective
        assert trial.constraints == {"facts": pytest.approx(own.losses["facts"] - limit)}
    scores = {
        row["trial_id"]: row
        for row in read_ledger(done.run_dir)
        if row["kind"] == "score" and row["name"] == "again"
    }
    finalists = [entry["trial_id"] for entry in done.view.finalists["chosen"]]
    for name in finalists:
        assert scores[name]["metrics"]["loss"]["value"] == view.trials[name].objective, (
            "its weights are of that point"
        )
    assert any(not view.trials[name].counted["final"] for name in finalists)


def test_best_within_bounds__report_has_front_and_evaluation(done):
    report = json.loads((done.run_dir / "report.json").read_text())
    best = winner(done.view)
    assert report["result"]["winner"]["best"]["step"] == best.counted["step"]
    front = {row["trial_id"]: row for row in report["bounds"]["front"]}
    assert front[best.trial_id]["losses"]["facts"] == -best.losses["facts"]
    assert math.isclose(front[best.trial_id]["objective"], best.objective)


def test_best_within_bounds__resume_adds_a_trial_and_refuses_another_bound(done):
    with raises(SpecError, "search.subject_to.facts.at_most"):
        resume_sweep(done.run_dir, ["search.subject_to.facts.at_most=0.9"])
    before = {name: (t.objective, t.counted["step"]) for name, t in done.view.trials.items()}
    with (done.run_dir.parent / "resumed.txt").open("w") as console:
        after = resume_sweep(done.run_dir, ["search.trials=5"], console=Console(file=console)).view
    assert len(after.search_trials) == 5
    assert {
        name: (after.trials[name].objective, after.trials[name].counted["step"]) for name in before
    } == before
