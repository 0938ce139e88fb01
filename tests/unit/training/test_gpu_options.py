"""Options that need a GPU: the same losses as without them, or an error where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.engine_material import changed, engine_config, train_config
from support.errors import raises
from support.ranks import run_trials
from sweepft.training import liger
from sweepft.training.liger import LigerKernels

A = train_config(batch_size=16, weight_decay=0.1)
B = train_config(learning_rate=1e-2)


def losses(config, *trials):
    return [r["history"]["loss"] for r in run_trials(config, list(trials), 1, gpus=1)]


def test_liger__refused_without_gpu(monkeypatch):
    monkeypatch.setattr(liger, "sees_gpu", lambda: False)
    with raises(RuntimeError, "train.liger"):
        LigerKernels(None)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gpu__losses_equal_cpu(tiny_model_dir, tmp_path, stage):
    config = engine_config(tiny_model_dir, tmp_path, zero_stage=stage)
    (here,) = run_trials(config, [A], 1)
    assert losses(config, A)[0] == pytest.approx(here["history"]["loss"], abs=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [2, 3])
def test_gpu__packed_bf16_equals_padded_and_repeats(tiny_model_dir, tmp_path, stage):
    """Through FlashAttention over documents, whose sums are made in an order of their own."""
    padded = engine_config(tiny_model_dir, tmp_path, zero_stage=stage, precision="bf16")
    first, _, again = losses(replace(padded, packed=True, micro_batch=60), A, B, A)
    assert first == pytest.approx(losses(padded, A)[0], abs=2e-2)
    assert again == pytest.approx(first, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["optimizer", "optimizer_and_parameters"])
def test_gpu__offload_equals_and_repeats(tiny_model_dir, tmp_path, offload):
    config = engine_config(tiny_model_dir, tmp_path, zero_stage=3 if "parameters" in offload else 2)
    (here,) = losses(config, A)
    first, _, again = losses(replace(config, offload=offload), A, B, A)
    assert first == pytest.approx(here, abs=1e-5)
    # Parameters fetched to another place of the memory were seen to give a loss 3e-8 apart.
    assert again == (first if offload == "optimizer" else pytest.approx(first, abs=1e-6))


@pytest.mark.gpu
@pytest.mark.parametrize("wanted", [True, "auto"])
def test_gpu__liger_equals(tiny_model_dir, tmp_path, wanted):
    pytest.importorskip("liger_kernel")
    config = engine_config(tiny_model_dir, tmp_path)
    (here,) = run_trials(replace(config, liger=wanted), [A], 1, gpus=1)
    assert here["plain_kernels"] is None
    assert here["history"]["loss"] == pytest.approx(losses(config, A)[0], abs=1e-3)


@pytest.mark.gpu
def test_gpu__adamw_8bit_close_to_adamw(tiny_model_dir, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = engine_config(tiny_model_dir, tmp_path)
    first, again = losses(config, *[changed(A, optimizer="adamw_8bit")] * 2)
    assert first == pytest.approx(losses(config, A)[0], abs=5e-2)
    assert again == first
