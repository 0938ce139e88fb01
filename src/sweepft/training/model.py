"""Load the base model the same way on every rank, group its parameters for the optimizer, and compile its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from sweepft.training.attention import register
from sweepft.training.config import EngineConfig
from sweepft.training.generation import set_generation
from sweepft.training.quantized import loading_options, settle

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(config: EngineConfig, device: torch.device | None = None) -> Any:
    """The base model as trials start from it (:func:`load_base`), in training mode.

    Args:
        config: Of the sweep.
        device: Where quantized weights are made, the CPU by default; others are on the CPU.
    """
    model = load_base(config, (device or torch.device("cpu")) if config.quantize else None)
    model.train()
    return model


def load_base(config: EngineConfig, quantized_on: torch.device | None = None) -> Any:
    """The base model in the sweep's precision, on the CPU.

    Embeddings are extended where the tokenizer has tokens the model lacks; the new rows are drawn from a fixed seed,
    so that every rank and every trial starts from the same weights. Weights are read from safetensors, or from the
    pickle files in ``allow_pickle``, of which torch loads plain tensors only.

    Args:
        config: Of the sweep.
        quantized_on: Device for a model with linear layers in ``config.quantize``; None for one without.
    Raises:
        ImportError: If the weights are to be quantized and ``bitsandbytes`` is not installed.
        ValueError: If the folder has only pickle files, and one of them is not allowed.
    """
    from transformers import AutoModelForCausalLM

    pickles = sorted(p.name for p in Path(config.model_path).glob("pytorch_model*.bin"))
    plain = not config.allow_pickle or any(Path(config.model_path).glob("*.safetensors"))
    if not plain and not set(pickles) <= set(config.allow_pickle):
        raise ValueError(f"{config.model_path}: model.allow_pickle does not name all of {', '.join(pickles)}")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        config.model_path,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        use_safetensors=plain,
        dtype=_DTYPES[config.precision],
        **({} if quantized_on is None else loading_options(config, quantized_on)),
    )
    if quantized_on is not None:
        settle(model)
    if config.vocab_size > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(config.vocab_size)
    set_generation(model, config.end_ids, config.pad_id)
    return model


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimizer groups: matrices, which decay, and vectors (biases, norms), which do not.

    As in ``transformers.Trainer``. Both groups exist even without decay, so that a warm engine can change it; adapters
    have no vectors, and one group.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    shapes = [getattr(p, "ds_shape", p.shape) for p in trainable]
    matrices = [p for p, shape in zip(trainable, shapes, strict=True) if len(shape) >= 2]
    vectors = [p for p, shape in zip(trainable, shapes, strict=True) if len(shape) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


_VARIANTS: Final = 64
"""Compiled variants of a block; beyond them torch runs uncompiled, with only a line in the log."""


def blocks(model: Any) -> list[Any]:
    """The model's repeated blocks, as in ``_no_split_modules`` of transformers.

    Raises:
        ValueError: If there are none.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [module for module in base.modules() if type(module).__name__ in names]
    if not found:
        raise ValueError(
            f"train.compile: {type(base).__name__} does not name its repeated blocks; set compile: false"
        )
    return found


def compile_blocks(model: Any) -> None:
    """Compile the model's repeated blocks with ``torch.compile``, with dynamic shapes.

    Raises:
        ValueError: See :func:`blocks`.
    """
    found = blocks(model)
    register(compiled=True)
    torch._dynamo.config.recompile_limit = _VARIANTS
    for block in found:
        block.compile(dynamic=True)
