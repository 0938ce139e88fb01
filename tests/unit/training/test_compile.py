"""Compiled blocks train to the losses of plain ones, warm and cold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from support.engine_material import engine_config, train_config
from support.errors import raises
from support.ranks import run_trials
from sweepft.training.model import blocks, compile_blocks

A = train_config(batch_size=16, weight_decay=0.1)
B = train_config(learning_rate=1e-2, gradient_checkpointing=True)


def test_compile_blocks__compiles_the_repeated_block(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    found = blocks(model)
    assert found == list(model.model.layers)
    compile_blocks(model)
    assert all(block._compiled_call_impl is not None for block in found)
    assert model._compiled_call_impl is None


def test_compile_blocks__refuses_a_model_without_blocks():
    with raises(ValueError, "train.compile") as caught:
        compile_blocks(torch.nn.Linear(2, 2))
    assert "Linear" in str(caught.value)


def losses(result: dict[str, Any]) -> list[float]:
    return [*result["history"]["loss"], *(e["objective"] for e in result["evals"])]


@pytest.mark.full
@pytest.mark.parametrize(("zero_stage", "ranks", "packed"), [(0, 1, False), (2, 2, True)])
def test_compile_blocks__trials_equal_uncompiled(tiny_model_dir, tmp_path, zero_stage, ranks, packed):
    config = engine_config(
        tiny_model_dir, tmp_path, zero_stage=zero_stage, packed=packed, micro_batch=60 if packed else 4
    )
    compiled = replace(config, compiled=True)
    first, other, again = run_trials(compiled, [A, B, A], ranks)
    assert again["warm"]
    for plain, found in zip(run_trials(config, [A, B], ranks), (first, other), strict=True):
        assert losses(found) == pytest.approx(losses(plain), abs=2e-5)
    assert losses(again) == pytest.approx(losses(first), abs=1e-6)
