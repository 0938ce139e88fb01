"""A real sweep with a prior, an earlier sweep, a half-life of the second moment, and an end when enough is found."""

from __future__ import annotations

import json
import shutil

import pytest
from rich.console import Console

from support.ledger_builder import LedgerBuilder
from support.sweeps import run_spec, write_spec
from sweepft.driver.start import resume_sweep
from sweepft.ledger import read_ledger, winner

pytestmark = [pytest.mark.ray, pytest.mark.full]

SPACE = {
    "batch_size": {"choice": [8, 16]},
    "learning_rate": {"log_uniform": [1.0e-5, 1.0e-1], "prior": 3.0e-3, "width": 3},
}
TRIALS, LEAST = 8, 3


@pytest.fixture(scope="module")
def done(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aids")
    before = LedgerBuilder(name="before", spec={"search": {"space": SPACE}})
    for number, rate in enumerate((1e-4, 1e-3, 3e-3, 1e-2, 5e-2)):
        before.completed(f"t{number:03d}", 9.0 - number, params={"learning_rate": rate, "batch_size": 8})
    before.save(folder / "before")
    search = {
        "trials": TRIALS,
        "start_with": [],
        "baseline": {"batch_size": 8, "learning_rate": 1.0e-3},
        "enough": {"gain": 0.5, "min_trials": LEAST},
        "learn_from": [str(folder / "before")],
        "space": SPACE,
    }
    train = {"optimizer": {"beta2_half_life": 2_000}}
    path = write_spec(
        folder, tiny_model_dir, tiny_data_file, search=search, train=train, early_stop={"rule": "none"}
    )
    found = run_spec(path, folder / "run")
    shutil.rmtree(folder / "before")
    return found


def test_enough__ends_the_search_and_says_what_it_saved(done):
    row = done.view.found_enough
    assert row is not None
    trials = done.view.search_trials
    assert LEAST <= len(trials) < TRIALS
    assert {trial.status for trial in trials} == {"completed"}
    assert row["left"] == TRIALS - len([t for t in trials if t.proposed <= row["time"]])
    assert done.status == "finished"
    assert "search.enough" in done.view.finish["reason"]
    report = json.loads((done.run_dir / "report.json").read_text())["enough"]
    assert report["reached"]
    assert report["saved_seconds"] > 0
    assert report["text"] in (done.run_dir / "report.html").read_text()
    assert "the search ends" in (done.run_dir.parent / "run.txt").read_text()


def test_learned__is_in_the_ledger_and_said_at_the_start(done):
    (sweep,) = done.view.header["learned"]["sweeps"]
    assert (sweep["name"], len(sweep["trials"])) == ("before", 5)
    assert sweep["trials"][0]["values"] == {"batch_size": 8, "learning_rate": 5e-2}
    assert "learning from" in (done.run_dir.parent / "run.txt").read_text()


def test_half_life__each_trial_trains_with_its_own_beta2(done):
    tokens = done.view.tokens_per_sample
    assert tokens is not None
    for trial in done.view.search_trials:
        beta2 = 0.5 ** (trial.params["batch_size"] * tokens / 2_000)
        assert trial.train_config["optimizer"]["betas"] == [0.9, pytest.approx(beta2)]
    assert "beta2_half_life" not in (done.run_dir / "best" / "spec.yaml").read_text()
    report = json.loads((done.run_dir / "report.json").read_text())
    assert report["derived"] == ["optimizer.beta2"]


def test_resume__knows_that_enough_was_found_until_more_is_asked_for(done):
    before = len(done.view.search_trials)
    with (done.run_dir.parent / "resumed.txt").open("w") as console:
        again = resume_sweep(done.run_dir, console=Console(file=console))
        assert len(again.view.search_trials) == before
        assert winner(again.view).trial_id == winner(done.view).trial_id
        more = resume_sweep(
            done.run_dir, ["search.enough=null", f"search.trials={before + 1}"], console=Console(file=console)
        )
    assert len(more.view.search_trials) == before + 1
    assert len([row for row in read_ledger(done.run_dir) if row["kind"] == "enough" and row["enough"]]) == 1
