"""Real sweeps that maximize a function of the user's own over generated answers, and one whose function fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_task_objective_sweep import SEARCH

from support.errors import raises
from support.sweeps import run_spec, write_spec
from sweepft.demo import make_demo
from sweepft.demo.skills import NEW_SKILLS, skill_rows
from sweepft.driver.start import resume_sweep
from sweepft.errors import SpecError
from sweepft.ledger import ranking, winner

pytestmark = [pytest.mark.ray, pytest.mark.full]

METRIC = """\
def score(answer: str, row: dict) -> float:
    return answer.strip() == row["messages"][-1]["content"].strip()
"""
FAILS_LATE = """\
def score(answer: str, row: dict) -> float:
    if row["number"] == 7:
        raise ValueError("no such answer")
    return 1.0
"""
ITEMS = 40


def own_spec(folder: Path, demo: Path, source: str, **search: Any) -> Path:
    """A sweep of the demo's model and skills; its metric is written beside the spec."""
    weekday = next(skill for skill in NEW_SKILLS["dates"] if "weekday" in skill.__name__)
    items = skill_rows({"dates": (weekday,)}, ITEMS + 20, seed=9)
    rows = [item | {"number": i} for i, item in enumerate(items)]
    (folder / "weekdays.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_metrics.py").write_text(source)
    wanted = {"data": "weekdays.jsonl", "metric": "my_metrics:score", "limit": ITEMS, "max_tokens": 24,
              "batch_size": 20}  # fmt: skip
    return write_spec(
        folder,
        demo / "demo-model",
        demo / "demo-data" / "skills.jsonl",
        objective={"maximize": wanted},
        train={"budget": {"samples": 1024}, "micro_batch": 8, "precision": "fp32"},
        search=SEARCH | search,
        early_stop={"rule": "median", "rungs": [0.25, 0.5], "min_steps": 2, "min_peers": 2},
        resources={"concurrent_trials": 1, "workers_per_trial": 2},
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo")).parent


@pytest.fixture(scope="module")
def done(ray_here, demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return run_spec(own_spec(folder, demo, METRIC), folder / "run")


def test_own_metric__the_trial_with_the_highest_score_wins(done):
    ranked = [entry.trial for entry in ranking(done.view) if entry.rank]
    scores = [trial.objective for trial in ranked]
    assert scores == sorted(scores, reverse=True)
    assert winner(done.view) is ranked[0]
    assert winner(done.view) is not done.view.trials["t001"], "a rate of 1e-5 teaches next to nothing"
    for trial in ranked:
        task = trial.evals[-1]["task"]
        assert task["items"] == ITEMS
        assert 0 < task["stderr"] < 0.1
        assert trial.objective * ITEMS == pytest.approx(round(trial.objective * ITEMS))


def test_own_metric__report_names_file_and_function(done):
    report = json.loads((done.run_dir / "report.json").read_text())
    assert report["objective"]["name"] == "weekdays score"
    assert report["objective"]["task"]["items"] == ITEMS
    assert report["result"]["gain"]["baseline"]["trial_id"] == "t000"
    console = (done.run_dir.parent / "run.txt").read_text()
    assert f"items={ITEMS}" in console
    assert "score=" in console


def test_own_metric__resume_adds_a_trial_and_refuses_another_function(done):
    file = done.run_dir.parent / "my_metrics.py"
    file.write_text(METRIC + "# changed\n")
    with raises(SpecError, "objective.maximize.metric"):
        resume_sweep(done.run_dir, ["search.trials=5"])
    file.write_text(METRIC)
    with (done.run_dir.parent / "resumed.txt").open("w") as console:
        resumed = resume_sweep(done.run_dir, ["search.trials=5"], console=Console(file=console))
    assert len(resumed.view.trials) == 5


def test_own_metric__that_raises_late_fails_the_trial_at_once_with_its_place(ray_here, demo, tmp_path):
    spec = own_spec(tmp_path, demo, FAILS_LATE, trials=1, start_with=[])
    view = run_spec(spec, tmp_path / "run").view
    trial = view.trials["t000"]
    assert trial.status == "failed"
    assert "ValueError: no such answer at my_metrics.py:3" in trial.end["reason"]
    assert "weekdays.jsonl:8" in trial.end["reason"]
    assert [fault["error"] for fault in trial.faults] == ["RankCannotMeasure"], "it is not tried again"
