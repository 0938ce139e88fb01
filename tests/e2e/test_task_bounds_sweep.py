"""A real sweep with a bound on a function that trials are measured on: it must not forget what the base model knew."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from support.sweeps import run_spec, write_spec
from sweepft.demo import make_demo
from sweepft.driver.start import resume_sweep
from sweepft.ledger import ranking, read_ledger, winner
from sweepft.replay.sources.run_folder import live_decisions
from sweepft.search import STUDY_FILE, open_study

pytestmark = [pytest.mark.ray, pytest.mark.full]

METRIC = """\
def knows(answer: str, row: dict) -> float:
    return answer.strip() == row["messages"][-1]["content"].strip()
"""
ITEMS = 40


@pytest.fixture(scope="module")
def done(ray_here, tmp_path_factory):
    """At the baseline's rate of 1e-2 the demo's model forgets most of its facts; at 1e-5 it keeps them."""
    demo = make_demo(tmp_path_factory.mktemp("demo")).parent
    folder = tmp_path_factory.mktemp("task-bounds")
    (folder / "my_metrics.py").write_text(METRIC)
    facts = (demo / "demo-data" / "knowledge.jsonl").read_text().splitlines(keepends=True)
    (folder / "facts.jsonl").write_text("".join(facts[:ITEMS]))
    measured = {"data": "facts.jsonl", "metric": "my_metrics:knows", "max_tokens": 24, "batch_size": 20}
    spec = write_spec(
        folder,
        demo / "demo-model",
        demo / "demo-data" / "skills.jsonl",
        objective={"minimize": "validation_loss", "measure": [measured]},
        train={"budget": {"samples": 1024}, "micro_batch": 16, "precision": "fp32"},
        search={
            "trials": 4,
            "sampler": "tpe",
            "baseline": {"batch_size": 16, "learning_rate": 1.0e-2},
            "start_with": [{"batch_size": 16, "learning_rate": 1.0e-5}],
            "subject_to": {"facts": {"at_most": 0.1, "below": "base"}},
            "space": {
                "batch_size": {"choice": [16, 32]},
                "learning_rate": {"log_uniform": [1.0e-5, 1.0e-2]},
            },
        },
        early_stop={"rule": "median", "rungs": [0.25, 0.5], "min_steps": 2, "min_peers": 2},
        resources={"concurrent_trials": 1},
        keep={"top": 1, "pareto": 2},
    )
    return run_spec(spec, folder / "run")


def test_task_bound__base_model_is_measured_once_on_the_same_items(done):
    scores = [row for row in read_ledger(done.run_dir) if row["kind"] == "score"]
    assert [(row["trial_id"], row["what"], row["name"], row["items"]) for row in scores] == [
        (None, "measured", "measured: facts", ITEMS)
    ]
    (bound,) = done.view.bounds.entries
    assert bound.base is not None
    assert bound.base > 0.5, "the demo's model knows its facts"
    assert bound.worst == pytest.approx(bound.base - 0.1)


def test_task_bound__the_winner_keeps_what_the_base_model_knew(done):
    view = done.view
    ranked = [entry.trial for entry in ranking(view) if entry.rank]
    assert view.violation(winner(view)) == 0
    by_loss = min(ranked, key=lambda trial: trial.objective)
    assert view.violation(by_loss) > 0, "without the bound a trial that forgets would win"
    for trial in ranked:
        last = trial.evals[-1]["tasks"]["facts"]
        assert (last["items"], last["higher_is_better"]) == (ITEMS, True)
        assert trial.losses["facts"] == -last["value"]
    assert done.view.trials["t000"].objective_rungs is None
    assert [bool(row["tasks"]) for row in view.trials["t000"].evals] == [True] * 3


def test_task_bound__sampler_rule_and_report_follow_it(done):
    study, _ = open_study(done.run_dir / STUDY_FILE, "tiny")
    limit = done.view.bounds.limits["facts"]
    for trial in study.trials:
        name = trial.user_attrs["trial_id"]
        if done.view.trials[name].status == "completed":
            expected = done.view.trials[name].losses["facts"] - limit
            assert trial.constraints == {"facts": pytest.approx(expected)}
    decided = [row for row in read_ledger(done.run_dir) if row["kind"] == "decision"]
    again = [d.to_row() for d in live_decisions(type(done.view).load(done.run_dir))]
    assert [(d["trial_id"], d["action"], d["reason"]) for d in again] == [
        (d["trial_id"], d["action"], d["reason"]) for d in decided
    ]
    report = json.loads((done.run_dir / "report.json").read_text())
    assert report["result"]["winner"]["tasks"]["facts"]["value"] >= report["bounds"]["sets"][0]["limit"]
    assert "facts knows at most 0.1 below the base model" in report["bounds"]["text"]
    page = (done.run_dir / "report.html").read_text()
    assert "Objective against bounded losses and tasks" in page


def test_task_bound__may_be_changed_by_a_resume(done):
    with (done.run_dir.parent / "resumed.txt").open("w") as console:
        after = resume_sweep(
            done.run_dir,
            ["search.trials=5", "search.subject_to.facts.at_most=1.0"],
            console=Console(file=console),
        )
    assert len([row for row in read_ledger(done.run_dir) if row["kind"] == "score"]) == 1, "known already"
    assert len(after.view.search_trials) == 5
    assert all(after.view.violation(t) == 0 for t in after.view.search_trials if t.ranked)
