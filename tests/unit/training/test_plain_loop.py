"""A trial computes what a plain PyTorch loop computes."""

from __future__ import annotations

import pytest
import torch

from support.engine_material import VOCAB, engine_config, train_config, write_rows
from support.ranks import on_ranks, run_trials
from sweepft.data import SampleOrder, TokenSet
from sweepft.data.cache import write_token_set
from sweepft.training.config import ValidationSet
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
        weight = sum(float(data.weighted_row(int(i))[1][1:].sum()) for i in rows)
        total = 0.0
        for i in rows:
            ids, mask = (torch.from_numpy(a)[None] for a in data.weighted_row(int(i)))
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            picked = mask[0, 1:] != 0
            each = torch.nn.functional.cross_entropy(logits[picked], ids[0, 1:][picked], reduction="none")
            loss = (each * mask[0, 1:][picked]).sum() / weight
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


@pytest.mark.parametrize(
    ("world_size", "layout"),
    [
        (1, {"micro_batch": 3}),
        pytest.param(1, {"micro_batch": 64, "packed": True}, marks=pytest.mark.full),
        pytest.param(2, {"micro_batch": 3}, marks=pytest.mark.full),
        pytest.param(2, {"micro_batch": 64, "packed": True, "zero_stage": 3}, marks=pytest.mark.full),
    ],
)
def test_trial_runner__weights_of_turns_equal_a_plain_loop(tiny_model_dir, tmp_path, world_size, layout):
    """Weighted sum over weighted count of the global batch: by rows or packed, accumulated, on one rank or two."""
    rows = write_rows(tmp_path / "rows", 50, 3, weighted=True)
    config = engine_config(
        tiny_model_dir, tmp_path, train_cache=str(rows), budget_samples=STEPS * 16, validation=(), **layout
    )
    settings = train_config(batch_size=16, budget_samples=STEPS * 16, warmup={"steps": 3})
    losses, norms = plain_loop(config, settings)
    history = run_trials(config, [settings], world_size)[0]["history"]
    assert history["loss"] == pytest.approx(losses, abs=1e-5)
    assert history["grad_norm"] == pytest.approx(norms, abs=1e-5)
    plain = engine_config(tiny_model_dir, tmp_path / "plain", budget_samples=16, validation=(), micro_batch=3)
    unlike = run_trials(plain, [settings.model_copy(update={"budget_samples": 16})], 1)[0]["history"]
    assert unlike["loss"][0] != pytest.approx(losses[0], abs=1e-3)


def validated(runner):
    runner.start(train_config())
    return runner.evaluate()["sets"]["held"]


@pytest.mark.full
def test_validation__weights_of_turns(tiny_model_dir, tmp_path):
    """The loss is weighted; doubled weights change nothing; residuals over tokens give the standard error."""
    import numpy as np

    rows = TokenSet(write_rows(tmp_path / "rows", 30, 4, weighted=True))
    double = [(ids, 2 * mask, None) for ids, mask in map(rows.weighted_row, range(len(rows)))]
    write_token_set(tmp_path / "double", double, digest="d", vocab_size=VOCAB)
    found = []
    for folder in ("rows", "double"):
        held = (ValidationSet("held", str(tmp_path / folder), 1.0),)
        found.append(
            on_ranks(validated, 1, engine_config(tiny_model_dir, tmp_path / f"of-{folder}", validation=held))
        )
    assert found[0] == found[1]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    sums = []
    for ids, mask in map(rows.weighted_row, range(len(rows))):
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[1:]), reduction="none")
        sums.append((each * torch.from_numpy(mask[1:])).sum().item())
    loss = sum(sums) / rows.weights.sum()
    assert found[0]["loss"] == pytest.approx(loss, abs=1e-5)
    assert found[0]["tokens"] == rows.targets.sum() != rows.weights.sum()
    spread = np.sqrt(np.square(np.array(sums) - loss * rows.weights).sum() * 30 / 29) / rows.weights.sum()
    assert found[0]["stderr"] == pytest.approx(spread, rel=1e-3)
    residuals = np.array(found[0]["residuals"])
    assert np.sqrt(np.square(residuals).sum() * 30 / 29) / found[0]["tokens"] == pytest.approx(
        spread, rel=1e-3
    )


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
