"""Memory: states as in DeepSpeed's estimators, activations as autograd stores them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.planning import shape_3b
from sweepft.plan.memory import (
    GIB,
    _block_bytes,
    base_bytes,
    checkpoint_bytes,
    host_states,
    loading_bytes,
    model_states,
    rank_memory,
    trained_parameters,
)
from sweepft.plan.model_shape import ModelShape, shape_from_config, shape_of, vocabulary_of
from sweepft.spec import Model

KW = {"precision": "bf16", "rows": 4, "tokens": 1024, "checkpointing": False, "gpu": True}


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_model_states__equal_deepspeeds_estimates(gpus: int, nodes: int) -> None:
    """16-bit weights, nothing offloaded, stages 2 and 3; DeepSpeed estimates no other stage."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    shape = shape_3b()
    _, two = estimate_zero2_model_states_mem_needs(shape.parameters, gpus, nodes, cpu_offload=False)
    _, three, _ = estimate_zero3_model_states_mem_needs(
        shape.parameters, shape.largest_layer, gpus, nodes, cpu_offload=False, cpu_offload_params=False
    )
    assert model_states(shape, 2, "bf16", gpus * nodes) == two
    assert model_states(shape, 3, "bf16", gpus * nodes) == three


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_model_states__equal_deepspeeds_estimates_with_offload(gpus: int) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    shape = shape_3b()
    _, gpu = estimate_zero2_model_states_mem_needs(shape.parameters, gpus, 1, cpu_offload=True)
    assert model_states(shape, 2, "bf16", gpus, offload="optimizer") == gpu
    for offload in ("optimizer", "optimizer_and_parameters"):
        _, gpu, _ = estimate_zero3_model_states_mem_needs(
            shape.parameters, shape.largest_layer, gpus, 1,
            cpu_offload=True, cpu_offload_params=offload == "optimizer_and_parameters",
        )  # fmt: skip
        assert model_states(shape, 3, "bf16", gpus, offload=offload) == gpu


def mistral_7b() -> ModelShape:
    config = {
        "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768,
    }  # fmt: skip
    return shape_from_config(config, None, "a test")


@pytest.mark.parametrize(("ranks", "gib_a_node"), [(8, 122), (1, 122)])
def test_host_states__hold_each_state_once(ranks: int, gib_a_node: int) -> None:
    """18 bytes a parameter of Mistral 7B: 130 GB in all, where DeepSpeed's formula says 348 for eight ranks."""
    assert ranks * host_states(mistral_7b(), 2, ranks, offload="optimizer") / GIB == pytest.approx(
        gib_a_node, abs=0.6
    )


def test_checkpoint_bytes__masters_and_moments() -> None:
    assert checkpoint_bytes(mistral_7b()) / 1e9 == pytest.approx(87, abs=0.5)
    assert checkpoint_bytes(mistral_7b(), lora_rank=16) < checkpoint_bytes(mistral_7b()) / 100


def test_loading_bytes__a_copy_a_rank() -> None:
    """116 GB a node of eight ranks at ZeRO-1 and 2; at ZeRO-3 rank 0 alone reads."""
    assert loading_bytes(mistral_7b(), 2, "bf16", 8) / 1e9 == pytest.approx(116, abs=0.5)
    assert loading_bytes(mistral_7b(), 3, "bf16", 8) / 1e9 == pytest.approx(14.5, abs=0.1)


def test_rank_memory__fixed_terms_of_many_gpus() -> None:
    """ZeRO-3 with checkpointing on 32 GPUs, by hand in GiB: a billion gathered weights, of which the estimator of states
    has twice the largest layer; two buckets of 0.93; CUDA 0.5 and two communicators of 0.6.
    """
    found = rank_memory(
        mistral_7b(), **(KW | {"stage": 3, "ranks": 32, "rows": 1, "tokens": 2048, "checkpointing": True})
    )
    assert found.gathered / GIB == pytest.approx((2e9 - 2 * 2 * 134_217_728) / GIB, abs=0.01)
    assert found.buckets / GIB == pytest.approx(2 * 0.931, abs=0.01)
    assert found.process / GIB == pytest.approx(1.7 + 0.03 * (found.total - found.process) / GIB, abs=0.01)
    assert found.total / GIB == pytest.approx(11.5, abs=0.8), (
        "the review's estimate of the real peak: 11 to 12"
    )


def test_rank_memory__dropout_of_adapters_keeps_copies() -> None:
    """3 bytes of each target's input: 117 KB a token and block for all linear layers of Mistral 7B, 25 KB for q and v."""
    kw = KW | {"stage": 2, "ranks": 1, "rows": 1, "tokens": 1000, "lora_rank": 16}
    plain = rank_memory(mistral_7b(), **kw).activations
    dropped = rank_memory(mistral_7b(), **kw, lora_dropout=True).activations
    two = rank_memory(mistral_7b(), **kw, lora_dropout=True, lora_targets=("q_proj", "v_proj")).activations
    assert (dropped - plain) / (1000 * 32) == 3 * (6 * 4096 + 14336) == 116_736
    assert (two - plain) / (1000 * 32) == 3 * 2 * 4096


@pytest.mark.parametrize(
    ("name", "vocab"),
    [
        ("google/gemma-3-1b-it", 262_144), ("google/gemma-2-9b", 256_000), ("meta-llama/Llama-3.1-8B", 128_256),
        ("meta-llama/Llama-2-7b-hf", 32_000), ("Qwen/Qwen3-8B", 151_936), ("mistralai/Mistral-7B-v0.3", 32_768),
        ("ibm-granite/granite-3.3-2b-base", 49_152), ("org/model-3b", 64_000),
    ],
)  # fmt: skip
def test_vocabulary_of__the_family_in_the_name(name: str, vocab: int) -> None:
    assert vocabulary_of(name) == vocab
    shape = shape_of(Model(path=name), 3_000_000_000, look=False)
    assert shape is not None
    assert shape.vocab == vocab


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["llama", "granite", "mistral"])
def test_activations__equal_what_autograd_stores(arch: str, precision: str) -> None:
    """Bytes stored for the backward pass by one more block, in a real forward pass with padding."""
    import torch
    from transformers import AutoModelForCausalLM

    from support.tiny import tiny_config

    rows, tokens = 3, 40
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    ids = torch.arange(rows * tokens).reshape(rows, tokens)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0

    def kept(layers: int) -> int:
        model = AutoModelForCausalLM.from_config(
            tiny_config(arch, 384, num_hidden_layers=layers), dtype=dtype
        )  # type: ignore[arg-type]
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages = {}  # the tensor is kept, so that its address is not reused

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.train()(input_ids=ids, attention_mask=mask, use_cache=False)
        return sum(size for size, _ in storages.values())

    shape = shape_from_config(tiny_config(arch, 384).to_dict(), None, arch)  # type: ignore[arg-type]
    weight = {"fp32": 4, "bf16": 2}[precision]
    assert kept(3) - kept(2) == rows * tokens * _block_bytes(shape, weight, tokens)


@given(
    ranks=st.integers(1, 64),
    stage=st.integers(1, 3),
    rows=st.integers(1, 64),
    tokens=st.integers(1, 8192),
    checkpointing=st.booleans(),
)
def test_rank_memory__monotone(ranks: int, stage: int, rows: int, tokens: int, checkpointing: bool) -> None:
    """More ranks never need more per rank (but for NCCL, from the second one on); more rows always do; checkpointing never does."""

    def total(**changes: object) -> int:
        kw = KW | {
            "stage": stage,
            "ranks": ranks,
            "rows": rows,
            "tokens": tokens,
            "checkpointing": checkpointing,
        }
        return rank_memory(shape_3b(), **(kw | changes)).total  # type: ignore[arg-type]

    if ranks > 1:
        assert total(ranks=ranks + 1) <= total()
    assert total(rows=rows + 1) > total()
    assert total(checkpointing=True) <= total(checkpointing=False)


def test_rank_memory__higher_stages_need_less() -> None:
    sizes = [rank_memory(shape_3b(), stage=stage, ranks=8, **KW).total for stage in (1, 2, 3)]
    assert sizes == sorted(sizes, reverse=True)


def test_model_states__fp32_without_zero_is_adamw() -> None:
    shape = replace(shape_3b(), parameters=1000)
    assert model_states(shape, 0, "fp32", 8) == 16_000


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_model_states__fewer_moments_need_less(stage: int) -> None:
    names = ("adamw", "sgd", "adamw_8bit", "adafactor")
    sizes = [model_states(shape_3b(), stage, "fp32", 4, optimizer=name) for name in names]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_model_states__adapters_need_little(stage: int) -> None:
    shape = shape_3b()
    frozen = 2 * shape.parameters // (8 if stage == 3 else 1)
    adapters = [model_states(shape, stage, "bf16", 8, lora_rank=rank) for rank in (8, 64)]
    assert frozen < adapters[0] < adapters[1] < model_states(shape, stage, "bf16", 8)


def test_base_bytes__mistral_7b_in_four_bits() -> None:
    """By hand: 7.248 B parameters, of which 2 x 32,768 x 4,096 embeddings stay in 16 bits; 4.127 bits for the others."""
    ends = 2 * 32_768 * 4_096
    assert mistral_7b().embeddings == ends
    found = base_bytes(mistral_7b(), "bf16", quantized=True)
    assert found == pytest.approx(2 * ends + 0.51587 * (7.248e9 - ends), rel=1e-3)
    linear = mistral_7b().parameters - ends
    assert (found - 2 * ends) / (2 * linear) == pytest.approx(0.258, abs=1e-3), "a quarter of 16 bits"
    kw = {**KW, "stage": 1, "ranks": 1, "lora_rank": 16}
    four, sixteen = (rank_memory(mistral_7b(), **kw, quantized=q) for q in (True, False))  # type: ignore[arg-type]
    assert sixteen.states - four.states == base_bytes(mistral_7b(), "bf16", quantized=False) - found
    assert four.gathered == 2 * 4_096 * 14_336, "a layer in 16 bits while it is computed with"
    assert loading_bytes(mistral_7b(), 1, "bf16", 1, quantized=True) < 0.5 * GIB


def test_trained_parameters__layers_trained_whole_are_added() -> None:
    plain = trained_parameters(mistral_7b(), 16)
    assert trained_parameters(mistral_7b(), 16, ("embed_tokens", "lm_head")) - plain == 2 * 32_768 * 4_096
    assert trained_parameters(mistral_7b(), 16, ("lm_head",)) - plain == 32_768 * 4_096
    assert (
        trained_parameters(mistral_7b(), 16, ("model.layers.0.mlp", "down_proj")) - plain
        == 32 * 4 * 4_096 * 14_336
    )
