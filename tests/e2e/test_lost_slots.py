"""A coordinator is killed: its trial continues on another slot, and the sweep ends as an undisturbed one."""

from __future__ import annotations

import json
import time

import pytest

from support.faults import COORDINATOR, faults, kill, leaks, once, processes, rows_of, story
from support.sweeps import run_spec, write_spec
from sweepft.ledger import read_ledger

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

SEARCH = {
    "trials": 3,
    "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
    "space": {"batch_size": {"choice": [8, 16]}, "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]}},
}
ONE_SLOT = {"concurrent_trials": 1, "price_per_gpu_hour": 3600.0}


@pytest.fixture(scope="module")
def make_spec(tiny_model_dir, tiny_data_file):
    def make(folder, **sections):
        sections = {"search": SEARCH, "resources": ONE_SLOT, "checkpoint": "rungs"} | sections
        return write_spec(folder, tiny_model_dir, tiny_data_file, **sections)

    return make


@pytest.fixture(scope="module")
def undisturbed(ray_here, make_spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    return story(run_spec(make_spec(folder), folder / "run").view)


@pytest.mark.parametrize("steps", [0, 3], ids=["before its first result", "in the middle of a trial"])
def test_lost_slot__killed_coordinator_changes_no_result(undisturbed, make_spec, tmp_path, steps):
    run = tmp_path / "run"

    def find():
        begun = rows_of(run, "trial") >= 1 and rows_of(run, "steps") >= steps
        return processes(COORDINATOR) if begun else None

    with once(find, kill) as killed:
        done = run_spec(make_spec(tmp_path), run)
    assert killed
    assert story(done.view) == undisturbed, "same trials, same numbers, same decisions"
    rows = read_ledger(run)
    (fault,) = faults(run)
    assert (fault["error"], fault["action"]) == ("CoordinatorDied", "tried again")
    assert "the coordinator of the slot died" in fault["message"]
    attempts = done.view.trials[fault["trial_id"]].attempts
    assert [a.attempt for a in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) == (1 if steps == 0 else 2)
    assert len([r for r in rows if r["kind"] == "end"]) == len(done.view.trials), "no trial ends twice"
    assert leaks() == []
    assert not list((run / "checkpoints").glob("*/*"))
    cost = json.loads((run / "report.json").read_text())["cost"]
    assert sum(cost["by_phase"].values()) == pytest.approx(cost["capacity"], rel=0.02)


def test_lost_slot__trial_fails_after_repeated_losses(undisturbed, make_spec, tmp_path):
    run = tmp_path / "run"
    killed: list[int] = []

    def keep_killing(_: bool) -> None:
        """Every coordinator of the first trial."""
        while rows_of(run, "end") == 0:
            fresh = [slot for slot in processes(COORDINATOR) if slot.pid not in killed]
            if fresh and rows_of(run, "trial") >= 1:
                killed.append(kill(fresh))
            time.sleep(0.01)

    with once(lambda: rows_of(run, "trial") >= 1, keep_killing):
        done = run_spec(make_spec(tmp_path), run, ("faults.per_trial=1",))
    assert [f["action"] for f in faults(run)] == ["tried again", "given up"]
    first = done.view.trials["t000"]
    assert first.status == "failed"
    assert "its 1 retries (faults.per_trial) are used up" in first.reason
    assert [t.status for t in done.view.trials.values()].count("failed") == 1
    assert leaks() == []
