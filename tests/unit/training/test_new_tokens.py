"""Adapters train the embeddings of tokens that the base model has never seen, and export them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from support.engine_material import engine_config, train_config
from support.families import family_model
from support.ranks import on_ranks, run_trials
from support.tiny import tiny_tokenizer
from sweepft.data.cache import write_token_set
from sweepft.spec import Lora

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

BEGIN, END, PAD = 384, 385, 386  # the model has 384 rows
A = train_config(learning_rate=1e-2, lora=Lora(rank=4, alpha=8.0))
B = train_config(learning_rate=1e-2, lora=Lora(rank=4, alpha=64.0), seed=3)
C = train_config(lora=Lora(rank=8, target_modules=("q_proj",)))


def plan_with_new_tokens(folder: Path, model: Path, **changes):
    """A config over rows that begin and end with tokens the model lacks."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(50):
        n = int(rng.integers(4, 20))
        tokens = np.array([BEGIN, *rng.integers(4, 60, n), END])
        mask = np.arange(len(tokens)) > n // 2
        rows.append((tokens, mask, "any"))
    write_token_set(folder / "rows", rows, digest="5" * 64, vocab_size=387)
    tokens = {"vocab_size": 387, "pad_id": PAD, "new_tokens": (BEGIN, END)}
    return engine_config(model, folder, train_cache=str(folder / "rows"), **tokens, **changes)


def numbers(result):
    return {k: v for k, v in result["history"].items() if k != "seconds"}


CASES = [
    ("llama", {}, 2, 1),
    ("qwen3", {}, 0, 1),  # tied
    pytest.param("llama", {}, 0, 2, marks=pytest.mark.full),
    pytest.param("qwen3", {}, 1, 2, marks=pytest.mark.full),
    pytest.param("gemma3", {}, 2, 1, marks=pytest.mark.full),
    pytest.param(
        "llama", {"hidden_size": 320, "head_dim": 80}, 3, 2, marks=pytest.mark.full
    ),  # sharded embeddings
    pytest.param("qwen3", {"hidden_size": 320, "head_dim": 80}, 3, 2, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("family", "config", "stage", "world_size"), CASES)
def test_new_tokens__warm_equals_cold_bitwise(tmp_path, family, config, stage, world_size):
    model = family_model(tmp_path / "model", family, **config)
    plan = plan_with_new_tokens(tmp_path, model, zero_stage=stage)
    results = run_trials(plan, [A, B, C, A], world_size)
    first, second, ranked, again = results
    assert [r["warm"] for r in results] == [False, True, False, False]
    assert numbers(again) == numbers(first)
    assert numbers(second) == numbers(run_trials(plan, [B], world_size)[0])
    assert numbers(ranked) == numbers(run_trials(plan, [C], world_size)[0])


def learned(runner, folder: Path):
    runner.start(A)
    runner.run(64)
    runner.start(B)
    before = runner.set_loss(runner.config.train_cache)["loss"]
    runner.run(64)
    after = runner.set_loss(runner.config.train_cache)["loss"]
    runner.export(str(folder / "weights"), str(folder / "tokenizer"))
    runner.start(A)
    runner.start(B)
    runner.load_weights(str(folder / "weights"))
    return before, after, runner.set_loss(runner.config.train_cache)["loss"]


@pytest.mark.parametrize(("family", "config", "stage", "world_size"), CASES)
def test_new_tokens__are_learned_and_exported(tmp_path, family, config, stage, world_size):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = family_model(tmp_path / "model", family, **config)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<new-{i}>" for i in range(387 - len(tokenizer))])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    plan = plan_with_new_tokens(tmp_path, model, zero_stage=stage)
    before, after, there = on_ranks(learned, world_size, plan, tmp_path)
    assert after < before - 0.5
    assert there == after, "an exam sees the rows of the new tokens"

    ids = torch.tensor([[BEGIN, 20, 30, 40, END]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    expected = merged(ids).logits[..., :PAD]
    for name in ("get_input_embeddings", "get_output_embeddings"):
        base = AutoModelForCausalLM.from_pretrained(model)
        torch.manual_seed(0)
        base.resize_token_embeddings(387)
        rows = getattr(base, name)().weight[[BEGIN, END]], getattr(merged, name)().weight[[BEGIN, END]]
        assert (rows[0] - rows[1]).abs().max() > 1e-2, "the rows have moved"
    # As best/README.md says: with other random rows than the sweep's, and by the class that adds rows itself.
    resized = AutoModelForCausalLM.from_pretrained(model)
    resized.resize_token_embeddings(len(AutoTokenizer.from_pretrained(tmp_path / "weights")))
    adapted = PeftModel.from_pretrained(resized, tmp_path / "weights" / "adapter")
    torch.testing.assert_close(adapted(ids).logits[..., :PAD], expected, atol=2e-5, rtol=1e-4)
    automatic = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "weights" / "adapter")
    torch.testing.assert_close(automatic(ids).logits[..., :PAD], expected, atol=2e-5, rtol=1e-4)
