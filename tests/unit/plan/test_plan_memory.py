"""Memory: states as in DeepSpeed's estimators, activations as autograd stores them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.planning import shape_3b
from sweepft.plan.memory import _block_bytes, host_states, model_states, rank_memory
from sweepft.plan.model_shape import shape_from_config

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
def test_host_states__equal_deepspeeds_estimates(gpus: int) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    shape = shape_3b()
    host, gpu = estimate_zero2_model_states_mem_needs(shape.parameters, gpus, 1, cpu_offload=True)
    assert model_states(shape, 2, "bf16", gpus, offload="optimizer") == gpu
    assert host_states(shape, 2, gpus, offload="optimizer") == pytest.approx(host / gpus, abs=1)
    for offload in ("optimizer", "optimizer_and_parameters"):
        host, gpu, _ = estimate_zero3_model_states_mem_needs(
            shape.parameters, shape.largest_layer, gpus, 1,
            cpu_offload=True, cpu_offload_params=offload == "optimizer_and_parameters",
        )  # fmt: skip
        assert model_states(shape, 3, "bf16", gpus, offload=offload) == gpu
        assert host_states(shape, 3, gpus, offload=offload) == pytest.approx(host / gpus, abs=1)


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
    """More ranks never need more per rank; more rows always do; checkpointing never does."""

    def total(**changes: object) -> int:
        kw = KW | {
            "stage": stage,
            "ranks": ranks,
            "rows": rows,
            "tokens": tokens,
            "checkpointing": checkpointing,
        }
        return rank_memory(shape_3b(), **(kw | changes)).total  # type: ignore[arg-type]

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
