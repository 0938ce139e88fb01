"""Packed samples give the results of padded ones and do not attend to each other."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from support.engine_material import VOCAB, engine_config, train_config
from support.ranks import on_ranks
from support.tiny import tiny_config, tiny_model
from sweepft.spec import PACKABLE
from sweepft.training import attention
from sweepft.training.batching import Layout
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.forward import attend_by_documents, sample_losses, scored_logits

CPU = torch.device("cpu")
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
WINDOW = {"sliding_window": 8}
FAMILIES = [
    ("llama", {}),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    ("mistral", {"sliding_window": None}),
    ("mistral", WINDOW),
    ("granite", {"attention_multiplier": 0.1, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}),
    ("qwen3", {}),
    ("gpt_bigcode", NO_DROPOUT),
]  # fmt: skip


def some_rows(*lengths: int):
    rng = np.random.default_rng(0)
    return [(rng.integers(4, VOCAB, n), np.r_[False, rng.random(n - 2) < 0.6, True]) for n in lengths]


def loud(model):
    """Random weights large enough that attention matters: at the usual scale a leak would hardly show."""
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(5)
    return model


def outcome(model, batch):
    """Logits at the targets, losses of the samples, gradients of all weights."""
    model.zero_grad()
    logits = scored_logits(model, batch, CPU)
    losses = sample_losses(logits, batch)
    losses.mean().backward()
    return logits.detach(), losses.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def test_packing__every_packable_family_is_tested():
    assert {arch for arch, _ in FAMILIES} == PACKABLE


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize(("arch", "config"), FAMILIES)
def test_packing__equals_padding(arch, config):
    torch.manual_seed(0)
    model = loud(AutoModelForCausalLM.from_config(tiny_config(arch, VOCAB, **config))).train()
    rows = some_rows(30, 7, 21, 3)
    logits, losses, gradients = outcome(model, Layout("rows", 4, 0).collate(rows))
    assert attend_by_documents(model)
    packed = Layout("packed", 99, 0).collate(rows)
    assert packed.input_ids.shape == (1, 61)
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ours = outcome(model, packed)
        torch.testing.assert_close(ours[0], logits, atol=2e-5, rtol=0)
        torch.testing.assert_close(ours[1], losses, atol=2e-5, rtol=2e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                ours[2][name], gradient, atol=2e-5 * float(gradient.abs().max()), rtol=0
            )
    one_document = dataclasses.replace(packed, lengths=packed.lengths.sum(keepdims=True))
    assert (scored_logits(model, one_document, CPU) - logits).abs().max() > 0.1, "a leak would be seen"


def test_packing__refuses_a_pass_without_boundaries():
    model = AutoModelForCausalLM.from_config(tiny_config("llama", VOCAB))
    assert attend_by_documents(model)
    with pytest.raises(ValueError, match="needs documents"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), use_cache=False)


SETTINGS = train_config(batch_size=16, budget_samples=70)


def trained(runner, plans):
    """The same short trial under each plan."""
    results = []
    for plan in plans:
        runner.config, runner.zero = plan, ZeroEngine(plan, runner.device)
        runner._checked = False
        runner.start(SETTINGS)
        kind = runner.zero.layout.kind
        results.append((kind, runner.run(70), runner.evaluate()["objective"]))
        runner.zero.close()
    return results


@pytest.mark.parametrize(
    ("world_size", "stage"), [(1, 2), (2, 2), pytest.param(2, 3, marks=pytest.mark.full)]
)
def test_packing__trial_losses_equal_padded(tiny_model_dir, tmp_path, world_size, stage):
    rows = engine_config(tiny_model_dir, tmp_path, budget_samples=70, zero_stage=stage)
    budgets = [dataclasses.replace(rows, packed=True, micro_batch=n) for n in (1, 40, 4000)]
    (_, expected, objective), *others = on_ranks(trained, world_size, rows, [rows, *budgets])
    for kind, got, validation in others:
        assert kind == "packed"
        for name in ("loss", "grad_norm"):
            assert got["history"][name] == pytest.approx(expected["history"][name], abs=2e-5)
        assert got["history"]["tokens_seen"] == expected["history"]["tokens_seen"]
        assert got["blocks"]["loss"] == pytest.approx(expected["blocks"]["loss"], abs=2e-5)
        assert validation == pytest.approx(objective, abs=2e-5)


def trained_otherwise(runner, rows, packed):
    """An unproven family's trial, then what the check says of an attention that forgets the boundaries."""
    from sweepft.training import deepspeed_engine as zero

    ((_, expected, _),) = trained(runner, [rows])
    proven, zero.attend_by_documents = zero.attend_by_documents, lambda model: False
    ((kind, got, _),) = trained(runner, [packed])
    zero.attend_by_documents = proven
    attention._attention = _forgetful
    try:
        trained(runner, [packed])
    except Exception as error:
        return kind, expected["history"], got["history"], type(error).__name__, str(error)
    return kind, expected["history"], got["history"], None, None


def _forgetful(module, query, key, value, attention_mask, scaling=None, **_):
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2), None


def test_packing__unproven_family_padded_wrong_attention_refused(tmp_path):
    folder = tiny_model(tmp_path / "model", initializer_range=0.1)
    rows = engine_config(folder, tmp_path, budget_samples=70)
    packed = dataclasses.replace(rows, packed=True, micro_batch=60)
    kind, expected, got, error, message = on_ranks(trained_otherwise, 1, rows, rows, packed)
    assert kind == "grouped"
    assert got["loss"] == pytest.approx(expected["loss"], abs=2e-5)
    assert error == "PackingMismatch"
    assert "packed and padded losses differ" in message
    assert "set train.micro_batch to a number of samples instead" in message


def stand_in_kernel(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """What torch documents of ``varlen_attn``, in plain tensors: (tokens, heads, dim), window (left, right)."""
    assert query.shape[1] == key.shape[1] or enable_gqa
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    parts = []
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        assert end - begin <= max_q
        at = torch.arange(end - begin)
        ahead = at[None, :] - at[:, None]
        left, right = (end if side < 0 else side for side in window_size)
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], key[begin:end])
        scores = scores * (scale or query.shape[-1] ** -0.5)
        scores = scores.masked_fill((ahead > right) | (ahead < -left), -torch.inf)
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[begin:end]))
    return torch.cat(parts)


def ungrouped_kernel(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)
):
    """torch 2.11's, which does not take grouped heads."""
    assert key.shape[1] == query.shape[1]
    return stand_in_kernel(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )


@pytest.fixture
def asked_again():
    """What torch's kernel takes is asked once a process."""
    attention._varlen_parameters.cache_clear()
    yield
    attention._varlen_parameters.cache_clear()


@pytest.mark.parametrize("kernel", [stand_in_kernel, ungrouped_kernel])
@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_varlen__call_equals_sdpa_by_document(monkeypatch, asked_again, window, scale, kernel):
    """Shapes, bounds, causality, window, scale and grouped heads; the kernel itself runs on GPUs only."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    theirs, ours = (inspect.signature(f).parameters.keys() for f in (varlen.varlen_attn, kernel))
    assert ours <= theirs
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    documents = attention.Documents.of(np.array([30, 7, 21, 3]), CPU)
    q = torch.randn(1, 4, 61, 16, requires_grad=True)
    k, v = (torch.randn(1, 2, 61, 16, requires_grad=True) for _ in range(2))
    results = []
    for path in (attention._varlen(q, k, v, scale, window, documents),
                 attention._by_document(q, k, v, 0.0, scale, window, documents)):  # fmt: skip
        results.append((path, *torch.autograd.grad(path.sin().sum(), (q, k, v))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("lacking", [None, "window_size", "enable_gqa", "scale"])
def test_varlen__incomplete_kernel_is_not_used(monkeypatch, asked_again, lacking):
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    whole = inspect.signature(varlen.varlen_attn)
    found = whole.replace(parameters=[p for p in whole.parameters.values() if p.name != lacking])
    monkeypatch.setattr(varlen.varlen_attn, "__signature__", found, raising=False)
    assert attention._varlen_is_complete() is (lacking in (None, "enable_gqa"))


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", [None, 8])
def test_varlen__gpu_equals_sdpa_by_document(window, heads):
    """Its gradients too."""
    torch.manual_seed(0)
    device = torch.device("cuda")
    documents = attention.Documents.of(np.array([30, 7, 21, 3]), device)
    shapes = ((1, 4, 61, 64), (1, heads, 61, 64), (1, heads, 61, 64))
    q, k, v = (torch.randn(s, device=device, dtype=torch.bfloat16, requires_grad=True) for s in shapes)
    assert attention._has_varlen(q)
    results = []
    for path in (attention._varlen(q, k, v, None, window, documents),
                 attention._by_document(q, k, v, 0.0, None, window, documents)):  # fmt: skip
        results.append((path, *torch.autograd.grad(path.float().sin().sum(), (q, k, v))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=3e-2, rtol=3e-2)
