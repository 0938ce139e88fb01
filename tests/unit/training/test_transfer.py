"""A batch sent as one block is the batch, and what overlaps on GPUs changes no number."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from support.engine_material import engine_config, train_config
from support.ranks import numbers, on_ranks
from sweepft.training.batching import Layout
from sweepft.training.config import overlaps_reduction
from sweepft.training.transfer import DeviceBatch, lay_out, send

CPU = torch.device("cpu")
A = train_config(batch_size=16, weight_decay=0.1)
B = train_config(learning_rate=1e-2, gradient_clipping=0.0)


def rows(weighted: bool):
    rng = np.random.default_rng(0)
    for n in (5, 1, 9, 2):
        mask = np.arange(n) % 3 != 1
        yield rng.integers(4, 99, n), mask * np.float32(0.5) if weighted else mask


@pytest.mark.parametrize(
    ("layout", "weighted"), [*product([Layout("rows", 4, 0), Layout("packed", 99, 0)], [False, True])]
)
def test_block__holds_the_batch(layout, weighted):
    batch = layout.collate(list(rows(weighted)))
    laid = lay_out(batch, pin=False)
    here, sent = send(batch, CPU), send(laid, CPU)
    found = {name: (getattr(here, name), getattr(sent, name)) for name in vars(here)}
    if (documents := found.pop("documents"))[0] is not None:
        assert documents[0].lengths == documents[1].lengths
        found |= {name: tuple(getattr(d, name) for d in documents) for name in ("cu_seqlens", "position_ids")}
    for name, (plain, moved) in found.items():
        if isinstance(plain, torch.Tensor):
            assert plain.dtype == moved.dtype, name
            assert torch.equal(plain, moved), name
            assert moved.untyped_storage().data_ptr() == laid.block.memory.data_ptr(), "one block for all"
            assert moved.data_ptr() % moved.dtype.itemsize == 0
        else:
            assert plain == moved, name
    assert (sent.weights is not None) == weighted
    assert send(sent, CPU) is sent, "sent once"


def test_block__is_another_one_for_each_batch():
    """A transfer may still read the block of the batch before."""
    batch = Layout("rows", 4, 0).collate(list(rows(False)))
    one, two = lay_out(batch, pin=False), lay_out(batch, pin=False)
    assert one.block.memory.data_ptr() != two.block.memory.data_ptr()


def results(runner, trials, way=None):
    """Each trial's numbers; with ``way``, as they are on GPUs in that respect."""
    from sweepft.training import deepspeed_engine, trainer

    if way == "blocks":
        whole, trainer.send = trainer.send, lambda batch, device: whole(lay_out(batch, pin=False), device)
    if way == "overlap":
        deepspeed_engine.overlaps_reduction = lambda *given: True
    found = []
    for trial in trials:
        warm = runner.start(trial)["warm"]
        parts = [runner.run(32), runner.run(64)]
        evals = [runner.evaluate()]
        found.append((warm, [numbers({"history": part["history"], "evals": evals}) for part in parts]))
    if way == "overlap":
        optimizer = runner.zero.engine.optimizer
        assert optimizer.overlap_comm
        assert all(not bucket.buffer and not bucket.params for bucket in optimizer.ipg_buckets.values())
        assert not any(optimizer.previous_reduced_grads.values())
    return found


def test_blocks__equal_losses_bitwise(tiny_model_dir, tmp_path):
    config = engine_config(tiny_model_dir, tmp_path, packed=True, micro_batch=60)
    assert on_ranks(results, 1, config, [A], "blocks") == on_ranks(results, 1, config, [A])


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overlap__warm_equals_cold_and_no_overlap(tiny_dropout_model, tmp_path, stage, precision):
    """On CPUs DeepSpeed's streams are none; its buffers and hooks are those of GPUs."""
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    first, other, again = on_ranks(results, 2, config, [A, B, A], "overlap")
    assert [warm for warm, _ in (first, other, again)] == [False, True, True]
    assert again[1] == first[1] != other[1]
    assert on_ranks(results, 2, config, [A])[0] == first


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("stage", [1, 2])
def test_gpu__overlap_repeats(tiny_model_dir, tmp_path, stage):
    config = engine_config(tiny_model_dir, tmp_path, zero_stage=stage, precision="bf16")
    first, _, again = on_ranks(results, 2, config, [A, B, A], gpus=1)
    losses = [found[1][1]["history"]["loss"] for found in (first, again)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


def page_locked(runner):
    runner.start(A)
    _, batch = runner._next_step(0, 16).micro_batches[0]
    return batch.block.memory.is_pinned() and isinstance(send(batch, runner.device), DeviceBatch)


@pytest.mark.gpu
def test_gpu__batches_are_page_locked(tiny_model_dir, tmp_path):
    assert on_ranks(page_locked, 1, engine_config(tiny_model_dir, tmp_path), gpus=1)


@pytest.mark.parametrize(
    ("stage", "offload", "device", "ranks", "expected"),
    [
        (1, "none", "cuda", 2, True),
        (2, "none", "cuda", 8, True),
        (2, "none", "cuda", 1, False),  # nothing to reduce
        (2, "none", "cpu", 2, False),
        (2, "optimizer", "cuda", 2, None),
        (0, "none", "cuda", 2, None),
        (3, "none", "cuda", 2, None),
    ],
)
def test_overlaps_reduction(stage, offload, device, ranks, expected):
    assert overlaps_reduction(stage, offload, device, ranks) is expected
