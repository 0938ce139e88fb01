"""Pausing in a real sweep: flagged trials free their slot, and those that are worth it resume and complete."""

from __future__ import annotations

import json
import shutil

import pytest
from optuna.trial import TrialState
from rich.console import Console
from test_resume import kill_and_resume

from support.sweeps import run_spec, write_spec
from sweepft.driver.start import resume_sweep
from sweepft.ledger import SweepState, ledger_path, read_ledger
from sweepft.replay.sources import live_decisions
from sweepft.search import STUDY_FILE, open_study

pytestmark = pytest.mark.ray


def story(view):
    """What must not depend on interruptions."""
    return {
        name: (
            t.params, t.status, t.objective, t.reason, t.history["loss"].tolist(),
            [(v["rung"], v["action"], v["reason"]) for v in t.decisions],
        )
        for name, t in view.trials.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def paused(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pause")
    rates = [3.0e-3, 1.0e-3, 8.0e-4, 3.0e-4, 1.0e-5]
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file,
        search={
            "trials": len(rates),
            "start_with": [{"learning_rate": rate, "batch_size": 8, "schedule": "constant"} for rate in rates],
        },
        early_stop={"pause": True, "top_fraction": 0.4, "audit": 0.0},
        resources={"concurrent_trials": 1},
        checkpoint="rungs",
    )  # fmt: skip
    run = folder / "run"
    return run, run_spec(spec, run)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_pause_trials__killed_and_resumed_equals_undisturbed(paused):
    run, _ = paused
    kill_and_resume(run.parent / "sweep.yaml", run, run.parent / "killed", kills=4, seed=5)


def test_pause_trials__some_resume_and_complete_others_stop(paused):
    run, done = paused
    rows = read_ledger(run)
    view = done.view
    assert done.status == "finished"
    assert {t.status for t in view.trials.values()} == {"completed", "stopped"}
    by_pause = [r["trial_id"] for r in rows if r["kind"] == "decision" and r["action"] == "pause"]
    back = {r["trial_id"] for r in rows if r["kind"] == "start" and r["attempt"] > 1}
    completed = {t.trial_id for t in view.with_status("completed")}
    assert back & completed, "a paused trial resumed and trained its full budget"
    assert {t.trial_id for t in view.with_status("stopped")} <= set(by_pause)
    last_new = max(r["seq"] for r in rows if r["kind"] == "trial")
    assert all(r["seq"] > last_new for r in rows if r["kind"] == "start" and r["attempt"] > 1)
    for name in back & completed:
        trial = view.trials[name]
        assert trial.history["step"].tolist() == list(range(1, trial.planned_steps + 1))
        assert trial.attempts[1].from_step > 0
    for trial in view.with_status("stopped"):
        assert "it was paused and not resumed" in trial.reason
    assert not list((run / "checkpoints").glob("*")), "no state is left of trials that have ended"
    progress = (run.parent / "run.txt").read_text()
    assert "trial pause: trial=" in progress
    assert "trial resumed: trial=" in progress


def test_pause_trials__resume_repeats_no_training(paused):
    """From its state: what the ledger calls lost is the reading of it, not the steps."""
    run, done = paused
    rows = read_ledger(run)
    back = {r["trial_id"] for r in rows if r["kind"] == "start" and r["attempt"] > 1}
    for name in back:
        trial = done.view.trials[name]
        assert trial.costs["lost"] < trial.costs["train"]


def test_pause_trials__study_agrees(paused):
    run, done = paused
    study, _ = open_study(run / STUDY_FILE, "tiny")
    states = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for found in study.trials:
        trial = done.view.trials[found.user_attrs["trial_id"]]
        assert found.state == states[trial.status]
        assert found.intermediate_values == {round(e["rung"] * 96): e["objective"] for e in trial.evals}


def test_pause_trials__decisions_equal_a_replay(paused):
    run, _ = paused
    rows = read_ledger(run)
    recorded = [(r["trial_id"], r["step"], r["action"]) for r in rows if r["kind"] == "decision"]
    assert [(v.trial_id, v.step, v.action) for v in live_decisions(SweepState.from_rows(rows))] == recorded


def test_pause_trials__report_lists_paused_trials(paused):
    run, done = paused
    stops = json.loads((run / "report.json").read_text())["stops"]
    assert stops["stopped"] == len(done.view.with_status("stopped"))
    assert stops["resumed"] > 0
    assert stops["paused"] == 0


def test_pause_trials__crash_while_paused_changes_nothing(paused, tmp_path):
    run, done = paused
    rows = read_ledger(run)
    first_back = next(r["seq"] for r in rows if r["kind"] == "start" and r["attempt"] > 1)
    crashed = tmp_path / "run"
    shutil.copytree(run, crashed)
    ledger = ledger_path(crashed)
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:first_back]))
    (crashed / "spec.yaml").write_text((run / "spec.yaml").read_text())
    before = SweepState.load(crashed)
    assert {t.status for t in before.trials.values()} == {"completed", "paused"}
    with (tmp_path / "resume.txt").open("w") as console:
        again = resume_sweep(crashed, console=Console(file=console))
    assert " paused" in (tmp_path / "resume.txt").read_text()
    assert story(again.view) == story(done.view)
