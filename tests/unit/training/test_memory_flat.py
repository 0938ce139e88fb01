"""A rank that runs many trials keeps no memory of them: it is flat over 30 trials."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from support.engine_material import engine_config, train_config
from support.ranks import on_ranks
from sweepft.training.deepspeed_engine import ZeroEngine

TRIALS = 30
SETTLED = 6  # by then allocator pools, autograd threads and lazy imports are there
MIB = 2**20


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_over_trials(runner, reset_in_place):
    """Resident bytes after each of the trials, whose batch size and checkpointing change each time."""
    runner.zero = ZeroEngine(runner.config, runner.device, reset_in_place)
    after, warm = [], []
    for i in range(TRIALS):
        trial = train_config(batch_size=(8, 16, 32)[i % 3], gradient_checkpointing=i % 2 == 1)
        warm.append(runner.start(trial)["warm"])
        runner.run(runner.config.budget_samples)
        runner.evaluate()
        after.append(resident())
    return after, warm


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
@pytest.mark.parametrize("stage", [2, *(pytest.param(stage, marks=pytest.mark.full) for stage in (0, 3))])
def test_zero_engine__memory_flat_over_warm_trials(tiny_dropout_model, tmp_path, stage):
    plan = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage)
    after, warm = on_ranks(memory_over_trials, 2, plan, None)
    assert warm == [False] + [True] * (TRIALS - 1)
    # One set of weights, gradients and optimizer states kept a trial would be 24 x 1.5 MB; pools still grow by a few.
    assert max(after[SETTLED:]) - after[SETTLED - 1] < 12 * MIB, [round(b / MIB, 1) for b in after]


def held_after_another_engine(runner):
    """Build an engine, train, build another one: how many of the first one's tensors are still in memory."""
    runner.start(train_config())
    runner.run(16)
    zero = runner.zero
    tensors = [*zero._master_tensors(), *(v for s in zero._optimizer_states() for v in s.values())]
    tensors += [getattr(p, "ds_tensor", p) for p in zero.module.parameters()]
    held = [t.untyped_storage()._weak_ref() for t in tensors if torch.is_tensor(t)]
    del tensors, zero
    assert len(held) > 10
    assert not runner.start(train_config(optimizer="sgd"))["warm"]
    runner.run(16)
    gc.collect()
    return sum(not torch.UntypedStorage._expired(storage) for storage in held)


@pytest.mark.parametrize("stage", [3, *(pytest.param(stage, marks=pytest.mark.full) for stage in (0, 2))])
def test_zero_engine__close_releases_everything(tiny_model_dir, tmp_path, stage):
    """DeepSpeed keeps the objects of every ZeRO-3 engine that it ever made."""
    assert (
        on_ranks(held_after_another_engine, 1, engine_config(tiny_model_dir, tmp_path, zero_stage=stage)) == 0
    )
