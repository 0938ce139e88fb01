"""Gradients of many micro-batches are summed in float32, although weights are bfloat16."""

from __future__ import annotations

import pytest
import torch

from support.engine_material import engine_config, train_config
from support.ranks import on_ranks
from support.tiny import tiny_model

CONFIG = train_config(
    batch_size=48, budget_samples=48, schedule="constant", warmup={"steps": 0}, gradient_clipping=0.0
)


def gradient(runner, micro_batch):
    """The gradient of one batch, from the step that plain SGD takes with it."""
    runner.set_micro_batch(micro_batch)
    runner.start(
        CONFIG.model_copy(
            update={
                "learning_rate": 1.0,
                "optimizer": CONFIG.optimizer.model_copy(update={"name": "sgd", "momentum": 0.0}),
            }
        )
    )
    before = torch.cat([t.flatten().clone() for t in runner.zero._master_tensors()])
    runner.run(48)
    return before - torch.cat([t.flatten() for t in runner.zero._master_tensors()])


def distance(runner):
    one, many = gradient(runner, 48), gradient(runner, 1)
    return float((one - many).norm() / one.norm())


@pytest.mark.parametrize("stage", [2, 3])
def test_gradients__of_48_passes_equal_those_of_one(stage, tmp_path):
    model = tiny_model(tmp_path / "model", "llama")
    plan = engine_config(model, tmp_path, zero_stage=stage, precision="bf16", budget_samples=48)
    assert on_ranks(distance, 1, plan) < 5e-3
