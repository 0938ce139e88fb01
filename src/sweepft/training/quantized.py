"""A frozen base model in 4 bits (QLoRA): loading, and its weights as they are computed with.

bitsandbytes quantizes, transformers replaces the linear layers, peft adapts them. Quantizing gives each rank the same
numbers, so nothing is sent between ranks, and trials share the model of their process like any other frozen base.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from sweepft.extras import import_error
from sweepft.training.config import EngineConfig
from sweepft.training.lora import is_named


def loading_options(config: EngineConfig, device: torch.device) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantize linear layers on loading, one weight after the other.

    Args:
        config: Of the sweep; computing is in its precision, and ``kept_whole`` is left out.
        device: Where the weights are quantized and stay.
    Raises:
        ImportError: If ``bitsandbytes`` is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401 - transformers' own error names no extra
    except ImportError as error:
        raise import_error("bitsandbytes", "train.lora.quantize") from error
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32,
        llm_int8_skip_modules=_left_out(config) if config.kept_whole else None,
    )
    return {"quantization_config": four_bits, "device_map": {"": device}}


def _left_out(config: EngineConfig) -> list[str]:
    """The layers that transformers leaves out by default, and those that are trained whole."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers.base import get_keys_to_not_convert

    of_model = AutoConfig.from_pretrained(
        config.model_path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(of_model, trust_remote_code=config.trust_remote_code)
    whole = [name for name, _ in skeleton.named_modules() if is_named(name, config.kept_whole)]
    return [*get_keys_to_not_convert(skeleton), *whole]


def settle(model: Any) -> None:
    """Have evaluation on CPUs compute with the weights that trials train on.

    On CPUs with AVX512-BF16, bitsandbytes rearranges the weights in the first forward pass without gradients and rounds
    their scales to bf16; training would go on with those.

    Raises:
        ValueError: If nothing was quantized.
    """
    layers = list(quantized_layers(model))
    if not layers:
        raise ValueError(
            f"train.lora.quantize: {type(model).__name__} has no linear layer that bitsandbytes quantizes; "
            "remove the key"
        )
    for _, layer in layers:
        layer.support_avx512bf16_for_cpu = False


def quantized_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and modules of the quantized linear layers; names are those of the model without adapters."""
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            yield name.removeprefix("base_model.model.").replace(".base_layer", ""), module


@torch.no_grad()
def copy_quantized(trained: Any, base: Any) -> None:
    """Write the weights that quantized layers compute with over those of a base model.

    Args:
        trained: The model with quantized layers.
        base: The same model as loaded without quantizing; changed in place.
    """
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    for name, layer in quantized_layers(trained):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain = base.get_submodule(name)
        plain.weight.copy_(weight.T if isinstance(plain, Conv1D) else weight)
