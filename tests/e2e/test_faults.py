"""Faults inside a slot: the trial continues, other trials are unaffected, and the ledger records the fault."""

from __future__ import annotations

import os
import signal

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from support.engine_material import engine_config, train_config
from support.errors import raises
from support.faults import RANK, faults, kill, leaks, once, processes, rows_of
from support.models import FORGET_POSITIONS, OUT_OF_MEMORY, RAISE_ALWAYS, RAISE_ONCE, faulty_model
from support.sweeps import run_spec, write_spec
from support.tiny import tiny_model
from sweepft.early_stopping import EarlyStopper
from sweepft.errors import RankFailed, RankHung, RankMismatch
from sweepft.ledger import read_ledger
from sweepft.slot.group import WorkerGroup, WorkerShape
from sweepft.slot.state import WENT_ON

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

TWO_TRIALS = {
    "trials": 2,
    "start_with": [{"learning_rate": 3.0e-3}, {"learning_rate": 1.0e-3}],
    "space": {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}},
}
SETTINGS = {
    "budget": {"samples": 96}, "micro_batch": 4, "precision": "fp32", "zero_stage": 2, "batch_size": 16,
}  # fmt: skip
TWO_RANKS = {"workers_per_trial": 2, "concurrent_trials": 1}


def losses(done):
    return {name: (t.status, t.objective, t.history["loss"].tolist()) for name, t in done.view.trials.items()}


@pytest.fixture(scope="module")
def undisturbed(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file, search=TWO_TRIALS, train=SETTINGS, resources=TWO_RANKS
    )
    return losses(run_spec(spec, folder / "run"))


@pytest.mark.parametrize("policy", ["rungs", pytest.param("none", marks=pytest.mark.full)])
def test_faults__killed_rank_is_replaced(undisturbed, tiny_model_dir, tiny_data_file, tmp_path, policy):
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search=TWO_TRIALS, train=SETTINGS, resources=TWO_RANKS,
        checkpoint=policy,
    )  # fmt: skip
    run = tmp_path / "run"

    def second_result():  # after the first rung, so that there is a checkpoint where the policy writes one
        return rows_of(run, "steps") >= 2 and processes(RANK)

    with once(second_result, kill) as killed:
        done = run_spec(spec, run)
    assert killed
    assert losses(done) == undisturbed
    (fault,) = faults(run)
    assert fault["error"] == "RankDied"
    assert "died" in fault["message"]
    assert fault["action"] == "ranks rebuilt"
    attempts = done.view.trials[fault["trial_id"]].attempts
    assert [a.attempt for a in attempts] == list(range(1, len(attempts) + 1))
    wrote = "checkpoint" in {r["phase"] for r in read_ledger(run) if r["kind"] == "cost"}
    assert wrote == (policy == "rungs")
    assert not list((run / "checkpoints").glob("*/*")), "checkpoints of ended trials are removed"
    assert leaks() == []


@pytest.mark.full  # the ranks rebuilt are those of a killed rank; test_costs has one that raises
def test_faults__raising_rank_is_replaced(undisturbed, tiny_model_dir, tiny_data_file, tmp_path):
    flag = str(tmp_path / "raised")
    model = faulty_model(tiny_model_dir, tmp_path / "model", RAISE_ONCE.format(call=7, rank=1, flag=flag))
    spec = write_spec(
        tmp_path, model, tiny_data_file, search=TWO_TRIALS, train=SETTINGS, resources=TWO_RANKS,
        model={"trust_remote_code": True},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    assert losses(done) == undisturbed
    (fault,) = faults(tmp_path / "run")
    assert "rank 1 raised RuntimeError: injected" in fault["message"]


@pytest.mark.full
def test_faults__own_error_is_not_retried_for_ever(undisturbed, tiny_model_dir, tiny_data_file, tmp_path):
    model = faulty_model(tiny_model_dir, tmp_path / "model", RAISE_ALWAYS.format(call=7))
    spec = write_spec(
        tmp_path, model, tiny_data_file, search=TWO_TRIALS, train=SETTINGS, resources=TWO_RANKS,
        model={"trust_remote_code": True}, faults={"per_trial": 9},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    assert {t.status for t in done.view.trials.values()} == {"failed"}
    assert [f["action"] for f in faults(tmp_path / "run")] == ["ranks rebuilt", "given up"] * 2


def test_faults__out_of_memory_halves_the_micro_batch(undisturbed, tiny_model_dir, tiny_data_file, tmp_path):
    model = faulty_model(tiny_model_dir, tmp_path / "model", OUT_OF_MEMORY.format(rows=2))
    spec = write_spec(
        tmp_path, model, tiny_data_file, search=TWO_TRIALS, train=SETTINGS, resources=TWO_RANKS,
        model={"trust_remote_code": True},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    (fault,) = faults(tmp_path / "run")
    assert fault["error"] == "RankOutOfMemory"
    assert fault["action"] == "micro_batch 4 -> 2", "found once, and remembered for the second trial"
    for name, (status, objective, loss) in losses(done).items():
        assert status == "completed"
        assert objective == pytest.approx(undisturbed[name][1], rel=1e-6)
        assert loss == pytest.approx(undisturbed[name][2], rel=1e-6)


def test_faults__packing_mismatch_ends_the_sweep_with_a_remedy(ray_here, tiny_data_file, tmp_path):
    sound = tiny_model(tmp_path / "sound", initializer_range=0.1)
    model = faulty_model(sound, tmp_path / "model", FORGET_POSITIONS)
    spec = write_spec(
        tmp_path, model, tiny_data_file, search=TWO_TRIALS | {"trials": 9}, model={"trust_remote_code": True},
        train=SETTINGS | {"micro_batch": {"tokens": 256}}, resources={"concurrent_trials": 1},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    assert (done.status, done.exit_code) == ("failed", 1)
    (one,) = (t for t in done.view.trials.values() if t.status != "interrupted")
    assert one.status == "failed"
    for words in one.reason, read_ledger(tmp_path / "run")[-1]["reason"]:
        assert "packed and padded losses differ" in words
        assert "set train.micro_batch to a number of samples instead" in words
    (fault,) = faults(tmp_path / "run")
    assert (fault["error"], fault["action"]) == ("PackingMismatch", "given up")


@pytest.mark.full
def test_faults__out_of_memory_at_one_sample_gives_up(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    model = faulty_model(tiny_model_dir, tmp_path / "model", OUT_OF_MEMORY.format(rows=0))
    spec = write_spec(
        tmp_path, model, tiny_data_file, search=TWO_TRIALS | {"trials": 9}, train=SETTINGS | {"micro_batch": 2},
        model={"trust_remote_code": True}, resources={"concurrent_trials": 1},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    assert done.status == "failed"
    assert done.exit_code == 1
    failed = [t for t in done.view.trials.values() if t.status == "failed"]
    assert len(failed) == 3, "three failures in a row from the first trial on, and no more are paid for"
    for one in failed:
        assert "rank 0 raised OutOfMemoryError" in one.reason
        assert "set train.gradient_checkpointing: true, or lower data.max_length" in one.reason
    assert [f["action"] for f in faults(tmp_path / "run")] == ["micro_batch 2 -> 1", *["given up"] * 3]
    assert "trials all failed" in read_ledger(tmp_path / "run")[-1]["reason"]


@pytest.fixture
def group(ray_here, tiny_model_dir, tmp_path):
    placement = placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(placement.ready())
    made = WorkerGroup(
        engine_config(tiny_model_dir, tmp_path), WorkerShape(2, 1, 0), placement, str(tmp_path / "log")
    )
    yield made
    made.close()
    remove_placement_group(placement)


def test_worker_group__names_a_hanging_rank(group):
    group.start(train_config(), timeout=120)
    assert group.run(8, timeout=120)["history"]["step"] == [1]
    os.kill(group.places[1]["pid"], signal.SIGSTOP)
    with raises(RankHung, "rank.hung") as hung:
        group.run(64, timeout=5)
    assert "rank0.log" in str(hung.value)
    assert "rank 1 wrote none" in str(hung.value)


def test_worker_group__refuses_ranks_that_disagree(group, tmp_path, tiny_model_dir):
    ranks = group._ranks
    other = engine_config(tiny_model_dir, tmp_path, micro_batch=2)
    ray.get(ranks[1].__ray_call__.remote(lambda self: setattr(self, "_plan", other)))
    with raises(RankMismatch, "rank.mismatch") as mismatch:
        group.start(train_config(), timeout=120)
    assert "rank 1 disagrees with rank 0 on engine config" in str(mismatch.value)
    with raises(RankFailed, "rank.failed") as failed:
        group.run(8, timeout=60)
    assert "no trial has been started" in str(failed.value)


def test_faults__error_of_the_rule_stops_no_trial(
    undisturbed, tiny_model_dir, tiny_data_file, tmp_path, monkeypatch
):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("of a rule")

    monkeypatch.setattr(EarlyStopper, "judge", broken)
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search=TWO_TRIALS, train=SETTINGS, resources=TWO_RANKS
    )
    done = run_spec(spec, tmp_path / "run")
    assert losses(done) == undisturbed
    found = [row for row in read_ledger(tmp_path / "run") if row["kind"] == "fault"]
    assert {(row["error"], row["action"]) for row in found} == {("ZeroDivisionError", WENT_ON)}
    assert "early stopping" in found[0]["message"]
