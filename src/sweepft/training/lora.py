"""Low-rank adapters on a frozen base model: attach, detach, change in place, and merge for export.

Rank and target modules are fixed when an adapter is built; alpha, dropout and weights can be set in place. Adapters of
one shape all start from the same seed, so that trials differ only in what is swept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sweepft.spec import Lora

_NAME = "default"
_PREFIX = "base_model.model."


def attach_adapter(model: Any, lora: Lora, model_path: str) -> Any:
    """The model with all its weights frozen and a fresh adapter attached.

    Raises:
        ImportError: If ``peft`` is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("train.lora needs the package peft: pip install 'sweepft[lora]'") from error
    torch.manual_seed(0)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules
        if isinstance(lora.target_modules, str)
        else list(lora.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model_path,
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    adapted.train()
    return adapted


def detach_adapter(adapted: Any) -> Any:
    """The base model without its adapter."""
    return adapted.unload()


def set_in_place(adapted: Any, lora: Lora) -> None:
    """Set alpha and dropout of an adapter of the same shape."""
    config = adapted.peft_config[_NAME]
    config.lora_alpha, config.lora_dropout = lora.alpha, lora.dropout
    for _, layer in _layers(adapted):
        layer.lora_alpha[_NAME] = lora.alpha
        layer.scaling[_NAME] = lora.alpha / lora.rank
        layer.lora_dropout[_NAME] = torch.nn.Dropout(lora.dropout) if lora.dropout else torch.nn.Identity()
        layer.lora_dropout[_NAME].train(layer.training)


def split(
    adapted: Any, state: Mapping[str, torch.Tensor], lora: Lora
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split a state into merged base weights and the adapter's own weights.

    Args:
        adapted: The model with its adapter.
        state: Its full state dict.
        lora: Shape and scale of the adapter.
    Returns:
        Weights by the base model's names, and by the names that ``peft`` loads.
    """
    transposed = {name for name, layer in _layers(adapted) if layer.fan_in_fan_out}
    merged, adapter = {}, {}
    for name, tensor in state.items():
        if ".lora_" in name:
            adapter[name.replace(f".{_NAME}.", ".")] = tensor
            continue
        layer, _, rest = name.partition(".base_layer.")
        weight = tensor
        if rest == "weight":
            a, b = (state[f"{layer}.lora_{part}.{_NAME}.weight"].float() for part in "AB")
            delta = (b @ a) * (lora.alpha / lora.rank)
            weight = (tensor.float() + (delta.T if layer in transposed else delta)).to(tensor.dtype)
        merged[(f"{layer}.{rest}" if rest else layer).removeprefix(_PREFIX)] = weight
    return merged, adapter


def save_adapter(adapted: Any, adapter: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the adapter as ``peft.PeftModel.from_pretrained`` loads it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({name: t.contiguous() for name, t in adapter.items()}, folder / "adapter_model.safetensors")
    adapted.peft_config[_NAME].save_pretrained(folder)


def _layers(adapted: Any) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]
