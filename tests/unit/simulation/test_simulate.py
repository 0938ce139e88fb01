"""A simulated sweep uses the real driver, ledger and report, and is marked as simulated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.simulation import Simulated, compare_systems, make_courses, simulate
from benchmarks.simulation.__main__ import main as simulation
from benchmarks.simulation.courses import Recorded, Synthetic
from benchmarks.simulation.run import SweepState as FoldOfTheRun
from benchmarks.simulation.trainable import Playback

from support import specs
from support.errors import raises
from sweepft.driver.build import build_scheduler
from sweepft.driver.start import resume_sweep
from sweepft.early_stopping import PriorSweeps
from sweepft.errors import LedgerError, SpecError
from sweepft.ledger import SweepState, read_ledger
from sweepft.replay.curves import Run, Study
from sweepft.spec import SweepSpec, from_dict

BUDGET = 4096


def make_spec(trials: int = 120, slots: int = 24, rule: str = "calibrated", **search: Any) -> SweepSpec:
    space = {
        "batch_size": {"choice": [64, 128, 256]},
        "learning_rate": {"log_uniform": [1e-6, 1e-4]},
        "schedule": {"choice": ["constant", "linear"]},
    }
    return specs.spec(
        name="made-up",
        train={"budget": {"samples": BUDGET}, "micro_batch": 4},
        search={"trials": trials, "sampler": "random", "space": space} | search,
        early_stop={"rule": rule, "rungs": [0.1, 0.25, 0.5], "min_steps": 1},
        resources={"workers_per_trial": 2, "gpus_per_worker": 1, "concurrent_trials": slots},
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    spec = make_spec()
    return simulate(
        spec, tmp_path_factory.mktemp("made") / "run", make_courses(spec, None, 0), marks=[50, 100]
    )


def test_simulate__every_trial_ends_and_costs_add_up_to_slot_time(done: Simulated) -> None:
    view = SweepState.load(done.run_dir)
    assert len(view.trials) == 120
    assert {t.status for t in view.trials.values()} <= {"completed", "stopped", "diverged"}
    assert view.with_status("stopped")
    assert view.status == "finished"
    report = json.loads(done.reports["json"].read_text())
    assert report["cost"]["unaccounted"] < 1e-6 * report["cost"]["capacity"]
    assert report["cost"]["wall_seconds"] == pytest.approx(done.virtual_seconds, abs=0.01)


def test_simulate__ledger_and_reports_are_marked_simulated(done: Simulated) -> None:
    assert "made-up" in SweepState.load(done.run_dir).simulated["courses"]
    assert "Simulated sweep" in done.reports["html"].read_text()
    assert "Simulated sweep" in done.reports["md"].read_text()
    assert json.loads(done.reports["json"].read_text())["simulated"]["slots"] == 24


def test_resume__refuses_a_simulated_sweep(done: Simulated) -> None:
    with raises(LedgerError, "ledger.simulated"):
        resume_sweep(done.run_dir)


def test_simulate__marks_are_taken_where_asked_and_at_the_end(done: Simulated) -> None:
    assert [mark.trials for mark in done.marks] == [50, 100, 120]
    assert set(done.marks[-1].seconds) == {"propose", "judge", "tell", "record"}
    assert done.marks[0].rows < done.marks[-1].rows


def test_simulate__same_seed_gives_the_same_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.simulation.run.write_report", lambda *_, **__: {})
    spec = make_spec(trials=40, slots=8, sampler="tpe")
    one, other = (simulate(spec, tmp_path / name, make_courses(spec, None, 0)) for name in ("a", "b"))

    def rows_of(run: Path) -> list[Any]:
        # The header names machine and command; costs carry times since the begin, to the last bit but one.
        return [
            {k: v for k, v in row.items() if k != "time"}
            for row in read_ledger(run)
            if row["kind"] not in ("sweep", "cost")
        ]

    assert json.dumps(rows_of(one.run_dir)) == json.dumps(rows_of(other.run_dir))


@pytest.mark.parametrize(
    "again",
    [pytest.param(0, id="taken over"), pytest.param(10_000, id="judged again", marks=pytest.mark.full)],
)
def test_scheduler__adopted_decisions_equal_those_made_again(
    done: Simulated, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweepft.early_stopping.from_ledger.MAX_DECIDED_AGAIN", again)
    judged, adopted = (build_scheduler(make_spec(), BUDGET, PriorSweeps()) for _ in range(2))
    judged.load_ledger(SweepState.load(done.run_dir))
    adopted.restore_ledger(SweepState.load(done.run_dir))
    one, other = judged.state_dict(), adopted.state_dict()
    for judged_trial, adopted_trial in zip(one["cohort"]["trials"], other["cohort"]["trials"], strict=True):
        low, known = judged_trial["lowest_score"], adopted_trial["lowest_score"]
        assert (low is None) == (known is None)
        assert low is None or low <= known
        if again == 0:  # a judgement between rungs that changed nothing is in no row
            adopted_trial["lowest_score"] = low
    assert json.dumps(other) == json.dumps(one)


class Walked(dict[Any, Any]):
    """Counts the entries that are gone through."""

    steps = 0

    def values(self) -> Any:
        Walked.steps += len(self)
        return super().values()

    def items(self) -> Any:
        Walked.steps += len(self)
        return super().items()

    def __iter__(self) -> Iterator[Any]:
        Walked.steps += len(self)
        return super().__iter__()


def test_driver__number_of_full_scans_does_not_grow_with_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.simulation.run.SweepState", lambda: FoldOfTheRun(trials=Walked()))
    monkeypatch.setattr("benchmarks.simulation.run.write_report", lambda *_, **__: {})
    walked = []
    for trials in (60, 120):
        spec = make_spec(trials=trials, slots=8, rule="median")
        Walked.steps = 0
        simulate(spec, tmp_path / str(trials), make_courses(spec, None, 0))
        walked.append(Walked.steps)
    assert walked[1] <= 2 * walked[0] + 1


def test_make_courses__refuses_a_budget_not_in_samples() -> None:
    changed = make_spec().to_dict()
    changed["train"]["budget"] = {"epochs": 1.0}
    with raises(SpecError, "train.budget"):
        make_courses(from_dict(changed), None, 0)


def test_synthetic__same_params_and_seed_give_the_same_course() -> None:
    spec, config = make_spec(), {"batch_size": 64, "learning_rate": 1e-5, "schedule": "linear"}
    one, same, other = (
        Synthetic(spec, BUDGET, seed).course(config, spec.train_config(config, BUDGET)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.loss, same.loss)
    assert not np.array_equal(one.loss, other.loss)
    assert one.samples[-1] == BUDGET
    assert len(one.loss) == 64


def test_synthetic__early_losses_predict_the_end_in_part() -> None:
    spec, rng = make_spec(), np.random.default_rng(0)
    early, late = [], []
    for _ in range(300):
        config = {
            "batch_size": int(rng.choice([64, 128, 256])),
            "learning_rate": float(10 ** rng.uniform(-6, -4)),
            "schedule": str(rng.choice(["constant", "linear"])),
        }
        course = Synthetic(spec, BUDGET).course(config, spec.train_config(config, BUDGET))
        if math.isfinite(course.ideal):
            early.append(course.validation[len(course.validation) // 10])
            late.append(course.validation[-1])
    ranks = [np.argsort(np.argsort(v)) for v in (early, late)]
    assert 0.3 < np.corrcoef(*ranks)[0, 1] < 0.95


def test_recorded__plays_back_the_run_with_the_nearest_params() -> None:
    spec = make_spec()
    steps = np.arange(1.0, 11.0)

    def run(name: str, rate: float, end: float) -> Run:
        curve = np.linspace(2.0, end, 10)
        config = {"batch_size": 64, "learning_rate": rate}
        return Run(name, config, steps, 100 * steps, steps, curve, np.ones(10), curve, end)

    study = Study("s", "a-table", "min", 1000.0, [run("low", 2e-6, 1.5), run("high", 8e-5, 1.2)])
    courses = Recorded(spec, BUDGET, [study])
    config = {"batch_size": 128, "learning_rate": 5e-5, "schedule": "constant"}
    course = courses.course(config, spec.train_config(config, BUDGET))
    assert course.ideal == course.validation[-1] == 1.2
    assert course.loss[0] == pytest.approx(2.0, abs=0.1)
    assert "a-table" in courses.about["courses"]


def test_playback__results_have_the_keys_of_a_real_slot() -> None:
    spec, config = make_spec(), {"batch_size": 64, "learning_rate": 1e-5, "schedule": "linear"}
    trial = Playback(
        make_courses(spec, None, 0),
        config,
        spec.train_config(config, BUDGET),
        budget=BUDGET,
        rungs=(0.1, 0.5),
    )
    results = []
    while not results or not results[-1]["done"]:
        wait = trial.wait
        results.append(trial.report())
        assert wait == pytest.approx(sum(results[-1]["phase_seconds"].values()))
    text = (Path(__file__).parents[3] / "docs/architecture.md").read_text()
    table = text.split("## What a trial reports to Tune")[1].split("## ")[0]
    named = {
        k.strip("` ")
        for line in table.split("| --- | --- |")[1].splitlines()
        if "|" in line
        for k in line.split("|")[1].split(",")
    }
    other = {
        "failed",
        "diverged",
        "scored",
        "storage",
        "paused",
        "objective_stderr",
        "objective_task",
        "eval_tasks",
    }
    other |= {"patience", "best_objective", "best_stderr", "best_sets", "best_step", "best_is_new"}
    assert named - other <= set(results[-1])
    assert [r["rung"] for r in results if "rung" in r] == [0.1, 0.5, 1.0]
    assert sorted(i for r in results for i in r["blocks"]["index"]) == list(range(64))
    assert results[-1]["samples_seen"] == BUDGET


def test_compare_systems__all_have_the_same_virtual_time() -> None:
    spec = make_spec(slots=4, rule="asha")
    rows = compare_systems(spec, lambda seed: make_courses(spec, None, seed), full_trials=8, seeds=1)
    by_name = {row.system: row for row in rows}
    assert set(by_name) == {"random, no stops", "Ray OptunaSearch + ASHA", "sweepft"}
    plain = by_name["random, no stops"]
    assert 4 <= plain.completed <= 12
    assert by_name["sweepft"].trials > plain.trials
    for row in rows:
        assert row.regret[1.0][0] <= row.regret[0.5][0]
        assert row.regret[1.0][0] >= 0


def test_simulation_command__runs_and_shows_the_growth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(make_spec().to_dict())
    (tmp_path / "sweep.yaml").write_text(text)
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    args = ["growth", str(tmp_path / "sweep.yaml"), "--trials", "30", "--slots", "8", "--seed", "3"]
    simulation([*args, "--out", str(out), "--json", str(figures)])
    assert "CPU milliseconds of the driver per trial" in capsys.readouterr().out
    assert json.loads(figures.read_text())["marks"][-1]["trials"] == 30
    assert SweepState.load(out).spec["search"]["seed"] == 3
