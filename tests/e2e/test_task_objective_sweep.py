"""A real sweep that maximizes exact match on the demo's skills: what its ledger, study, report and resume make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support.errors import raises
from support.sweeps import run_spec, write_spec
from sweepft.demo import make_demo
from sweepft.demo.skills import NEW_SKILLS, skill_rows
from sweepft.driver.start import resume_sweep
from sweepft.errors import SpecError
from sweepft.ledger import ranking, read_ledger, winner
from sweepft.replay.sources.run_folder import live_decisions, read_run_folder
from sweepft.search import STUDY_FILE, open_study

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.ray, pytest.mark.full]

TASK = """\
task: demo_skills
dataset_path: json
dataset_kwargs: {data_files: {test: skills.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{messages[0]['content']}}"
doc_to_target: "{{messages[1]['content']}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 24}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
ITEMS = 40
SEARCH = {
    "trials": 4,
    "sampler": "tpe",
    "baseline": {"batch_size": 16, "learning_rate": 3.0e-3},
    "start_with": [{"batch_size": 16, "learning_rate": 1.0e-5}],
    "space": {
        "batch_size": {"choice": [16, 32]},
        "learning_rate": {"log_uniform": [1.0e-5, 1.0e-2]},
    },
}


def task_spec(folder: Path, demo: Path, **sections: Any) -> Path:
    """A sweep of the demo's model and skills; its task is the skill to name a day of the week."""
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "demo_skills.yaml").write_text(TASK)
    weekday = next(skill for skill in NEW_SKILLS["dates"] if "weekday" in skill.__name__)
    items = skill_rows({"dates": (weekday,)}, ITEMS + 20, seed=9)
    (tasks / "skills.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    wanted = {"task": "demo_skills", "metric": "exact_match", "limit": ITEMS, "include_path": str(tasks),
              "batch_size": 20}  # fmt: skip
    data = demo / "demo-data" / "skills.jsonl"
    given = {
        "objective": {"maximize": wanted},
        "train": {"budget": {"samples": 1024}, "micro_batch": 16, "precision": "fp32"},
        "search": SEARCH,
        "early_stop": {"rule": "median", "rungs": [0.25, 0.5], "min_steps": 2, "min_peers": 2},
        "resources": {"concurrent_trials": 1},
        "track": {"tensorboard": True},
    }
    return write_spec(folder, demo / "demo-model", data, **(given | sections))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo")).parent


@pytest.fixture(scope="module")
def done(ray_here, demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    return run_spec(task_spec(folder, demo), folder / "run")


def test_task_objective__the_trial_with_the_highest_score_wins(done):
    view = done.view
    ranked = [entry.trial for entry in ranking(view) if entry.rank]
    scores = [trial.objective for trial in ranked]
    assert scores == sorted(scores, reverse=True)
    assert winner(view) is ranked[0]
    assert winner(view) is not view.trials["t001"], "a rate of 1e-5 teaches the model next to nothing"
    assert (done.run_dir / "weights" / ranked[0].trial_id).is_dir()
    assert json.loads((done.run_dir / "best" / "best.json").read_text())["objective"] == scores[0]
    assert "## demo\\_skills exact\\_match" in (done.run_dir / "best" / "README.md").read_text()


def test_task_objective__every_evaluation_has_losses_and_the_end_has_items(done):
    for trial in done.view.trials.values():
        for row in trial.evals:
            assert row["sets"]["own"]["loss"] > 0
            if row["task"] is not None:
                assert row["task"]["items"] == ITEMS
                assert 0 < row["task"]["stderr"] < 0.1
                assert ("residuals" in row["task"]) == row["final"]
        if trial.status == "completed":
            assert trial.evals[-1]["task"] is not None
            assert trial.evals[-1]["objective"] == trial.objective


def test_task_objective__first_trial_is_measured_everywhere_later_ones_as_recorded(done):
    trials = list(done.view.trials.values())
    assert trials[0].objective_rungs is None
    assert [row["task"] is not None for row in trials[0].evals] == [True] * 3
    for trial in trials[1:]:
        assert trial.objective_rungs is not None, "a trial has completed and shown the cost"
        wanted = {*trial.objective_rungs, 1.0}
        measured = [row["rung"] for row in trial.evals if row["task"] is not None]
        assert measured == [row["rung"] for row in trial.evals if row["rung"] in wanted]


def test_task_objective__study_maximizes_and_replay_decides_as_live(done):
    study, _ = open_study(done.run_dir / STUDY_FILE, "tiny")
    assert study.direction.name == "MAXIMIZE"
    assert study.best_value == winner(done.view).objective
    decided = [row for row in read_ledger(done.run_dir) if row["kind"] == "decision"]
    again = [decision.to_row() for decision in live_decisions(type(done.view).load(done.run_dir))]
    assert [(d["trial_id"], d["action"], d["reason"]) for d in again] == [
        (d["trial_id"], d["action"], d["reason"]) for d in decided
    ]
    curves = read_run_folder(done.run_dir, cut_runs=True)
    assert (curves.objective, curves[0].mode) == ("demo_skills exact_match", "max")


def test_task_objective__report_shows_score_noise_items_and_gain(done):
    report = json.loads((done.run_dir / "report.json").read_text())
    task = report["objective"]["task"]
    assert task["items"] == ITEMS
    assert 0 < task["share"] < 1
    gain = report["result"]["gain"]
    assert gain["baseline"]["trial_id"] == "t000"
    assert "demo_skills exact_match" in gain["text"] or gain["verdict"] == "baseline_wins"
    console = (done.run_dir.parent / "run.txt").read_text()
    assert f"items={ITEMS}" in console
    assert "exact_match=" in console
    assert "eval_loss" not in console


def test_task_objective__training_is_that_of_a_sweep_without_it(done, demo, ray_here, tmp_path):
    """The first trial again, minimizing the validation loss: the same steps and losses, to the last bit."""
    search = SEARCH | {"trials": 1, "start_with": []}
    plain = run_spec(
        task_spec(tmp_path, demo, objective={"minimize": "validation_loss"}, search=search), tmp_path / "run"
    )
    own, other = done.view.trials["t000"], plain.view.trials["t000"]
    for key in ("step", "samples_seen", "loss", "grad_norm", "lr"):
        assert own.history[key].tolist() == other.history[key].tolist()
    assert [row["sets"] for row in own.evals] == [row["sets"] for row in other.evals]


def test_task_objective__resume_adds_trials_and_refuses_another_objective(done):
    with raises(SpecError, "objective.maximize.limit"):
        resume_sweep(done.run_dir, ["objective.maximize.limit=30"])
    before = {name: trial.objective for name, trial in done.view.trials.items()}
    with (done.run_dir.parent / "resumed.txt").open("w") as file:
        resumed = resume_sweep(done.run_dir, ["search.trials=5"], console=Console(file=file))
    assert len(resumed.view.trials) == 5
    assert {name: resumed.view.trials[name].objective for name in before} == before
    assert resumed.view.trials["t004"].objective_rungs == resumed.view.trials["t003"].objective_rungs
