"""A trial computes what a plain PyTorch loop computes."""

from __future__ import annotations

import pytest
import torch

from support.engine_material import engine_config, train_config
from support.ranks import run_trials
from sweepft.data import SampleOrder, TokenSet
from sweepft.training.lr_schedules import lr_at

STEPS = 20


def plain_loop(config, settings):
    """One process, one row at a time: no batching, padding, sharding or accumulation to get wrong."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(config.model_path, dtype=torch.float32).train()
    data = TokenSet(config.train_cache)
    order = SampleOrder(len(data), settings.seed, data.digest)
    constants = settings.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1.0,
        betas=constants.betas,
        eps=constants.eps,
        weight_decay=constants.weight_decay,
    )
    losses, norms = [], []
    for step in range(STEPS):
        rows = order.indices(step * settings.batch_size, (step + 1) * settings.batch_size)
        tokens = sum(int(data.row(int(i))[1][1:].sum()) for i in rows)
        total = 0.0
        for i in rows:
            ids, mask = (torch.from_numpy(a)[None] for a in data.row(int(i)))
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            picked = mask[0, 1:]
            loss = (
                torch.nn.functional.cross_entropy(logits[picked], ids[0, 1:][picked], reduction="sum")
                / tokens
            )
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, settings)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        norms.append(norm.item())
    return losses, norms


@pytest.mark.parametrize(
    ("batch_size", "world_size", "zero_stage"),
    [
        (16, 1, 2),
        (16, 2, 2),
        (24, 2, 3),
        (16, 2, 1),
        *(pytest.param(*rest, marks=pytest.mark.full) for rest in ((4, 1, 2), (16, 1, 0))),
    ],
)
def test_trial_runner__equals_a_plain_loop(tiny_model_dir, tmp_path, batch_size, world_size, zero_stage):
    config = engine_config(
        tiny_model_dir, tmp_path, budget_samples=STEPS * batch_size, zero_stage=zero_stage, validation=()
    )
    settings = train_config(batch_size=batch_size, budget_samples=STEPS * batch_size, warmup={"steps": 3})
    losses, norms = plain_loop(config, settings)
    history = run_trials(config, [settings], world_size)[0]["history"]
    assert history["loss"] == pytest.approx(losses, abs=1e-5)
    assert history["grad_norm"] == pytest.approx(norms, abs=1e-5)


@pytest.fixture(scope="module")
def cut_in_fours(tiny_model_dir, tmp_path_factory):
    """The batch in micro-batches of four on one rank."""
    config = engine_config(tiny_model_dir, tmp_path_factory.mktemp("fours"), budget_samples=70, micro_batch=4)
    return run_trials(config, [train_config(batch_size=16, budget_samples=70)], 1)[0]


@pytest.mark.parametrize(
    ("micro_batch", "world_size"),
    [(1, 1), (2, 2), pytest.param(8, 1, marks=pytest.mark.full), pytest.param(16, 2, marks=pytest.mark.full)],
)
def test_trial_runner__independent_of_the_micro_batch_split(
    cut_in_fours, tiny_model_dir, tmp_path, micro_batch, world_size
):
    """Micro-batch, accumulation and world size: loss and gradient norm stay within 1e-6."""
    expected = cut_in_fours
    config = engine_config(tiny_model_dir, tmp_path, budget_samples=70, micro_batch=micro_batch)
    got = run_trials(config, [train_config(batch_size=16, budget_samples=70)], world_size)[0]
    assert got["history"]["samples_seen"] == [16, 32, 48, 64, 70], "the last batch holds what is left"
    for name in ("loss", "grad_norm"):
        assert got["history"][name] == pytest.approx(expected["history"][name], rel=1e-6, abs=1e-6)
    assert got["evals"][0]["objective"] == pytest.approx(expected["evals"][0]["objective"], rel=1e-6)
