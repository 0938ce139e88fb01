"""A trial resumed from its saved state equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from support.engine_material import changed, engine_config, train_config
from support.ranks import on_ranks
from sweepft.training.checkpoint import free_space_problem
from sweepft.training.checkpoint_writer import _DTYPES, write_tensors

A = train_config(batch_size=12, weight_decay=0.1)
B = train_config(learning_rate=1e-2, seed=3)


def interrupted(runner, folder: Path, first, second):
    """Train half of a trial, save, train another trial in between, restore, finish; then the same without a break."""
    runner.start(first)
    history = runner.run(24)["history"]
    saved = runner.save(str(folder / "24"))
    runner.run(36)  # while it is written
    assert "skipped" not in runner.settle_checkpoint()
    runner.start(second)
    runner.run(16)
    runner.start(first)
    back = runner.restore(str(folder / "24"))
    rest = runner.run(64)
    gone_on = history, rest, runner.evaluate()["objective"]
    runner.start(first)
    whole = runner.run(24)["history"], runner.run(64), runner.evaluate()["objective"]
    return saved, back, gone_on, whole


@pytest.mark.parametrize(
    ("stage", "precision", "world_size"),
    [
        (2, "fp32", 2),
        (3, "fp32", 2),
        (1, "bf16", 2),
        *(pytest.param(*rest, marks=pytest.mark.full) for rest in ((0, "fp32", 2), (2, "fp32", 1))),
    ],
)
def test_checkpoint__restored_trial_is_bitwise_equal(
    tiny_dropout_model, tmp_path, stage, precision, world_size
):
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    saved, back, gone_on, whole = on_ranks(interrupted, world_size, config, tmp_path / "state", A, B)
    assert back["step"] == 2
    assert back["samples"] == 24
    assert saved["bytes"] > 0
    (history, rest, objective), (whole_start, whole_rest, whole_objective) = gone_on, whole
    for name in ("loss", "grad_norm", "lr", "samples_seen", "tokens_seen"):
        assert history[name] == whole_start[name]
        assert rest["history"][name] == whole_rest["history"][name]
    assert rest["blocks"] == whole_rest["blocks"], "also the block that the interruption cut in two"
    assert objective == whole_objective


@pytest.mark.full
@pytest.mark.parametrize(
    ("optimizer", "stage"), [("sgd", 2), ("adafactor", 0), ("adamw_8bit", 2), ("adamw_8bit", 3)]
)
def test_checkpoint__other_optimizers_are_bitwise_equal(tiny_dropout_model, tmp_path, optimizer, stage):
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="needs pip install 'sweepft[8bit]'")
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage)
    first, second = (changed(t, optimizer=optimizer) for t in (A, B))
    *_, gone_on, whole = on_ranks(interrupted, 2, config, tmp_path / "state", first, second)
    assert gone_on[1]["history"]["loss"] == whole[1]["history"]["loss"]
    assert gone_on[2] == whole[2]


def damaged(runner, folder: Path, first, other):
    problems = []

    def attempt(trial, state: Path) -> None:
        runner.start(trial)
        try:
            runner.restore(str(state))
        except ValueError as error:
            problems.append(str(error))

    runner.start(first)
    runner.run(24)
    runner.save(str(folder / "24"))
    runner.settle_checkpoint()
    attempt(other, folder / "24")
    elsewhere = folder.with_name("elsewhere") / "24"
    shutil.copytree(folder / "24", elsewhere)
    (folder / "25").symlink_to(elsewhere)
    attempt(first, folder / "25")
    shard = folder / "24" / "rank0.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    attempt(first, folder / "24")
    shard.unlink()
    shard.symlink_to(elsewhere / "rank0.safetensors")
    attempt(first, folder / "24")
    return problems


def test_checkpoint__refuses_damaged_or_foreign(tiny_model_dir, tmp_path):
    config = engine_config(tiny_model_dir, tmp_path)
    foreign, linked, broken, linked_shard = on_ranks(damaged, 1, config, tmp_path / "state", A, B)
    assert "is a checkpoint of another trial" in foreign
    assert "25: is a link" in linked
    assert "does not match the digest" in broken
    assert "rank0.safetensors: is a link" in linked_shard


def twice(runner, folder: Path, first):
    runner.start(first)
    for samples in (24, 48):
        runner.run(samples)
        former = runner.save(str(folder / str(samples)))["former"]
    return former, runner.settle_checkpoint()


def test_checkpoint__keeps_the_newest_only(tiny_model_dir, tmp_path):
    former, last = on_ranks(twice, 2, engine_config(tiny_model_dir, tmp_path), tmp_path / "state", A)
    assert former["seconds"] > 0, "the second one has waited for the first"
    assert last["seconds"] > 0
    (kept,) = (tmp_path / "state").iterdir()
    assert kept.name == "48"
    assert json.loads((kept / "complete.json").read_text())["world_size"] == 2


def broken_behind(runner, folder: Path, first):
    """A first checkpoint; a second one whose write fails on a rank; one that hangs and is given up; a last one."""
    from sweepft.training import checkpoint_writer

    write, there = checkpoint_writer.write_tensors, []
    last_rank = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1

    def instead(tensors, file, unwanted):
        checkpoint = file.parent.name.split("-")[0]
        if checkpoint == ".24" and last_rank:
            file.write_bytes(b"a part")
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        if checkpoint == ".36":
            unwanted.wait(60)
        return write(tensors, file, unwanted)

    def save(samples: int) -> dict:
        runner.run(samples)
        done = runner.save(str(folder / str(samples)))
        there.append(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
        return done

    checkpoint_writer.write_tensors = instead
    runner.start(first)
    save(12)
    runner.settle_checkpoint()
    save(24)
    failed = save(36)["former"]
    given_up = runner.settle_checkpoint(cancel=True)
    save(48)
    last = runner.settle_checkpoint()
    checkpoint_writer.write_tensors = write
    there.append(sorted(path.name for path in folder.iterdir()))
    return failed, given_up, last, there


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.full)])
def test_checkpoint__that_fails_behind_training_leaves_the_former(tiny_model_dir, tmp_path, world_size):
    config = engine_config(tiny_model_dir, tmp_path)
    failed, given_up, last, there = on_ranks(broken_behind, world_size, config, tmp_path / "state", A)
    assert ("No space left" if world_size == 1 else "another rank could not write") in failed["skipped"]
    assert "no more use" in given_up["skipped"]
    assert "skipped" not in last
    assert there[1:] == [["12"], ["12"], ["12"], ["48"]]


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(list(_DTYPES)), st.lists(st.integers(0, 5), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=30, deadline=None)
def test_write_tensors__is_read_by_safetensors(tmp_path_factory, shapes):
    file = tmp_path_factory.mktemp("shard") / "rank0.safetensors"
    tensors = {f"t{i}": (torch.rand(shape) * 9).to(dtype) for i, (dtype, shape) in enumerate(shapes)}
    digest = write_tensors(tensors, file, threading.Event())
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    read = load_file(file)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_write_tensors__stops_when_it_is_of_no_more_use(tmp_path):
    unwanted = threading.Event()
    unwanted.set()
    assert write_tensors({"a": torch.zeros(9)}, tmp_path / "rank0.safetensors", unwanted) is None


def test_free_space_problem__before_writing(tmp_path):
    assert free_space_problem(tmp_path, 1) is None
    assert "GB free and a checkpoint takes 1000000.0 GB" in free_space_problem(tmp_path, 10**15)
