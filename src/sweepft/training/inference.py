"""Use the model inside a live engine as a plain one: load kept weights into it, and run a forward pass for scoring.

Each rank reads its own share of the weights from the file, so nothing is gathered and ZeRO-3 needs no more memory than
training. The next trial's start restores the base weights.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open

from sweepft.training.attention import DOCUMENTS
from sweepft.training.deepspeed_engine import ZeroEngine


@torch.no_grad()
def load_weights(zero: ZeroEngine, folder: Path) -> None:
    """Load the weights of an exported trial. Called on every rank, after ``start`` with its train config.

    For a trial with adapters only the adapter is read; the base weights are the engine's own.

    Args:
        zero: Freshly started.
        folder: As ``sweepft.training.export`` wrote it.
    Raises:
        ValueError: If the folder lacks a weight of the model or holds it in another shape.
    """
    read = _reader(folder if zero.lora is None else folder / "adapter", _short if zero.lora else str)
    aliases: dict[int, list[str]] = {}  # the file holds tied weights under one of their names
    for name, parameter in zero.module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            aliases.setdefault(id(parameter), []).append(name)
    if zero.config.zero_stage == 3:
        zero.engine.optimizer._partition_all_parameters()  # gathered copies would keep the old values
    for parameter in (p for p in zero.module.parameters() if p.requires_grad):
        names = aliases[id(parameter)]
        tensor = read(names)
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if tensor is None or tensor.shape != shape:
            found = "is missing" if tensor is None else f"has the shape {tuple(tensor.shape)}"
            raise ValueError(
                f"{folder}: {names[0]} {found}; the model needs {tuple(shape)}\n"
                "  the weights belong to another model or are damaged: remove the folder and train the trial again"
            )
        _fill(parameter, tensor)
    zero.gather_persistent()


@contextlib.contextmanager
def plain_model(zero: ZeroEngine) -> Iterator[Any]:
    """The transformers model for forward passes by other code: no dropout, transformers' own attention.

    At ZeRO-3 every rank must make the same calls. Random states, training mode and attention are restored on exit.
    """
    packed = zero.layout.kind == "packed"
    module = zero.module if zero.lora is None else zero.module.get_base_model()
    modes = [(m, m.training) for m in zero.module.modules()]
    with _random_states_kept(zero.device), torch.no_grad():
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


def _fill(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    shard = getattr(parameter, "ds_tensor", None)
    if shard is None:
        parameter.data.copy_(tensor)
        return
    # ZeRO-3: this rank's share of the flat weight; the last rank's may end in padding.
    flat, size = tensor.reshape(-1), shard.numel()
    start = dist.get_rank() * size
    mine = flat[start : start + size]
    shard.view(-1)[: mine.numel()].copy_(mine)


def _short(name: str) -> str:
    """The name of an adapter's weight as ``peft`` saves it."""
    return name.replace(".default.", ".")


def _reader(folder: Path, rename: Callable[[str], str]) -> Callable[[list[str]], torch.Tensor | None]:
    """A function that reads the weight of any of some names, or None."""
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shard: Any = safe_open(path, "pt")
        files |= dict.fromkeys(shard.keys(), shard)

    def read(names: list[str]) -> torch.Tensor | None:
        name = next((rename(n) for n in names if rename(n) in files), None)
        return None if name is None else files[name].get_tensor(name)

    return read


@contextlib.contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
