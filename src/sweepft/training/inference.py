"""Use the model inside a live engine as a plain one: load kept weights into it, and run a forward pass for scoring.

Each rank copies its own share of the weights, so nothing is gathered and ZeRO-3 needs no more GPU memory than training.
The next trial's start restores the base weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from sweepft.errors import ExportMismatch
from sweepft.training.attention import DOCUMENTS
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.export import ADAPTER
from sweepft.training.lora import by_saved_name
from sweepft.training.read_back import load_exported, random_states_kept


@torch.no_grad()
def load_weights(zero: ZeroEngine, folder: Path) -> None:
    """Load the weights of an exported trial. Called on every rank, after ``start`` with its train config.

    transformers loads the folder on the CPU, mapped where its files hold weights as the model does, so that names and
    shapes in the files are its own affair. For a trial with adapters only the adapter is read; the base weights are
    the engine's own.

    Args:
        zero: Freshly started.
        folder: As ``sweepft.training.export`` wrote it.
    Raises:
        ExportMismatch: If the folder lacks a weight of the model or holds it in another shape.
    """
    trained = {name: p for name, p in zero.module.named_parameters() if p.requires_grad}
    source: Mapping[str, torch.Tensor]
    if zero.lora is None:
        source = dict(load_exported(folder, zero.config.trust_remote_code).named_parameters())
    else:
        source = load_file(folder / ADAPTER / "adapter_model.safetensors")
        trained = by_saved_name(zero.module, trained)
    if zero.config.zero_stage == 3:
        zero.engine.optimizer._partition_all_parameters()  # gathered copies would keep the old values
    for name, parameter in trained.items():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if name not in source or source[name].shape != shape:
            found = "is missing" if name not in source else f"has the shape {tuple(source[name].shape)}"
            raise ExportMismatch(
                f"{folder}: {name} {found}; the model needs {tuple(shape)}\n"
                "  the weights belong to another model or are damaged: remove the folder and train the trial again"
            )
        _fill(parameter, source[name])
    zero.gather_persistent()


@contextlib.contextmanager
def plain_model(zero: ZeroEngine) -> Iterator[Any]:
    """The transformers model for forward passes by other code: no dropout, transformers' own attention.

    At ZeRO-3 every rank must make the same calls. Random states, training mode and attention are restored on exit.
    """
    packed = zero.layout.kind == "packed"
    module = zero.module if zero.lora is None else zero.module.get_base_model()
    modes = [(m, m.training) for m in zero.module.modules()]
    with random_states_kept(zero.device), torch.no_grad():
        zero.eval()
        if packed:
            module.set_attn_implementation(zero.padded_attention)
        try:
            yield module
        finally:
            if packed:
                module.set_attn_implementation(DOCUMENTS)
            zero.train()
            for part, training in modes:
                part.training = training


def _fill(parameter: torch.Tensor, tensor: torch.Tensor) -> None:
    shard = getattr(parameter, "ds_tensor", None)
    if shard is None:
        parameter.data.copy_(tensor)
        return
    # ZeRO-3: this rank's share of the flat weight; the last rank's may end in padding.
    flat, size = tensor.reshape(-1), shard.numel()
    start = dist.get_rank() * size
    mine = flat[start : start + size]
    shard.view(-1)[: mine.numel()].copy_(mine)
