"""Commands on a running sweep: each one is answered, carried out, and listed in the report."""

from __future__ import annotations

import io
import json
import threading
import time

import pytest
from rich.console import Console

from support.errors import raises
from support.sweeps import run_spec, write_spec
from sweepft.driver.give_command import give_command
from sweepft.driver.progress import watch_run
from sweepft.driver.start import resume_sweep
from sweepft.errors import CommandError
from sweepft.ledger import Command, SweepState, ledger_path, read_ledger, send_command
from sweepft.search import STUDY_FILE, open_study

pytestmark = pytest.mark.ray

BUDGET = 1200


def wait_for(run, condition, what: str):
    """Until the sweep is as wanted; returns its view."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if ledger_path(run).exists() and ledger_path(run).stat().st_size:
            view = SweepState.load(run)
            if condition(view):
                return view
        time.sleep(0.05)
    raise AssertionError(f"never seen: {what}")


def trains(name: str):
    return lambda view: name in view.trials and view.trials[name].step > 0


def give_commands(run, answers: dict) -> None:
    """What the user does."""
    wait_for(run, trains("t000"), "t000 training")
    answers["pause"] = give_command(run, "pause")
    answers["while paused"] = wait_for(run, lambda v: v.status == "paused", "paused")
    answers["extend"] = give_command(run, "extend", None, {"trials": 2})
    answers["pin"] = give_command(run, "pin", "t000")
    answers["continue"] = give_command(run, "continue")
    wait_for(run, trains("t001"), "t001 training")
    answers["clone"] = give_command(run, "clone", "t000", {"params": {"learning_rate": 2.0e-4}})
    answers["stop"] = give_command(run, "stop", "t001")
    wait_for(run, lambda v: v.trials["t001"].end is not None, "t001 ended")
    with raises(CommandError, "stop t001"):
        give_command(run, "stop", "t001")


@pytest.fixture(scope="module")
def commanded(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file,
        train={"budget": {"samples": BUDGET}},
        search={
            "trials": 1,
            "start_with": [
                {"learning_rate": rate, "batch_size": 8, "schedule": "constant"} for rate in (1.0e-3, 5.0e-4)
            ],
        },
        early_stop={"rule": "none"},
        resources={"concurrent_trials": 1},
    )  # fmt: skip
    run, answers, failures, screen = folder / "run", {}, [], io.StringIO()

    def user() -> None:
        try:
            give_commands(run, answers)
        except BaseException as error:
            failures.append(error)
            raise

    def onlooker() -> None:
        wait_for(run, lambda v: v.header, "begun")
        watch_run(run, Console(file=screen, width=200))

    threads = [threading.Thread(target=f, daemon=True) for f in (user, onlooker)]
    for thread in threads:
        thread.start()
    done = run_spec(spec, run)
    for thread in threads:
        thread.join(30)
    assert not failures, failures
    return run, done, answers, screen.getvalue()


def test_commands__each_is_answered_and_carried_out(commanded):
    _, done, answers, _ = commanded
    view = done.view
    assert {name: view.trials[name].status for name in view.trials} == {
        "t000": "completed", "t001": "stopped", "t002": "completed",
    }  # fmt: skip
    assert done.status == "finished"
    assert answers["stop"] == "stops at its next report point"
    stopped = view.trials["t001"]
    assert stopped.stopped_by["rule"] == "user"
    assert stopped.reason.startswith("stopped by ")
    assert 0 < stopped.samples_seen < BUDGET
    clone = view.trials["t002"]
    assert clone.origin == "clone"
    assert clone.params == {**view.trials["t000"].params, "learning_rate": 2.0e-4}


def test_commands__paused_sweep_continues_from_checkpoints(commanded):
    run, _, answers, _ = commanded
    paused = answers["while paused"]
    assert paused.trials["t000"].status == "interrupted"
    assert paused.trials["t000"].reason == "the sweep was paused"
    rows = read_ledger(run)
    kinds = [(r["kind"], r.get("status")) for r in rows if r["kind"] in ("sweep", "finish")]
    assert kinds == [("sweep", None), ("finish", "paused"), ("sweep", None), ("finish", "finished")]
    again = [r for r in rows if r["kind"] == "start" and r["trial_id"] == "t000"]
    assert [r["attempt"] for r in again] == [1, 2]
    assert again[1]["from_step"] == paused.trials["t000"].step, "no step is lost"
    steps = SweepState.load(run).trials["t000"].history["step"].tolist()
    assert steps == list(range(1, BUDGET // 8 + 1))
    assert not (run / "checkpoints" / "pause").exists()


def test_commands__who_and_when_in_ledger_report_and_terminal(commanded):
    run, done, _, screen = commanded
    rows = [r for r in read_ledger(run) if r["kind"] == "command"]
    assert [r["command"] for r in rows] == ["pause", "extend", "pin", "continue", "clone", "stop"]
    assert all(r["accepted"] and "@" in r["who"] and 0 <= r["time"] - r["asked"] < 60 for r in rows)
    report = json.loads((run / "report.json").read_text())
    assert [c["command"] for c in report["commands"]] == [r["command"] for r in rows]
    assert rows[0]["who"] in (run / "report.html").read_text()
    progress = (run.parent / "run.txt").read_text()
    for text in (progress, screen):
        assert "command accepted: clone t000" in text
        assert "sweep paused: paused by" in text
        assert "trial stopped: trial=t001" in text
    assert "sweep finished" in screen
    assert done.view.planned_trials == 3


def test_commands__study_knows_stop_and_clone(commanded):
    run, *_ = commanded
    study, _ = open_study(run / STUDY_FILE, "tiny")
    states = {t.user_attrs["trial_id"]: (t.state.name, t.user_attrs["origin"]) for t in study.trials}
    assert states == {
        "t000": ("COMPLETE", "start_with"),
        "t001": ("PRUNED", "start_with"),
        "t002": ("COMPLETE", "clone"),
    }


def test_commands__refused_after_the_end(commanded):
    run, *_ = commanded
    with raises(CommandError, "pause"):
        give_command(run, "pause")


def test_commands__unanswered_one_is_handled_on_resume(commanded):
    run, *_ = commanded
    send_command(run, Command.new("clone", "t000", {"params": {"learning_rate": 4.0e-4}}))
    send_command(run, Command.new("clone", "t000", {"params": {"learning_rate": 77.0}}))
    with (run.parent / "resume.txt").open("w") as console:
        again = resume_sweep(run, console=Console(file=console))
    answers = [r["accepted"] for r in again.view.commands[-2:]]
    assert answers == [True, False]
    assert again.view.trials["t003"].params["learning_rate"] == 4.0e-4
    assert again.view.trials["t003"].status == "completed"
