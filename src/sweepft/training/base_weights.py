"""Base weights as files on a node, memory-mapped by all its ranks: one copy in the page cache for any number of slots.

The mappings are private: a process that writes to one gets its own copy of the page, and the file does not change.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from sweepft.files import atomic_write
from sweepft.training.config import EngineConfig
from sweepft.training.file_lock import file_lock
from sweepft.training.lora import base_name


def shared_copy(config: EngineConfig, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A memory-mapped copy of base weights, flat, on the CPU.

    Args:
        config: Of the sweep; its model names the file.
        name: Name of the tensor in the model.
        tensor: The weights as loaded.
    Raises:
        RuntimeError: If the file, left by another rank, holds other weights.
    """
    path = _path(config, f"{_layout(config)}-{name}.bin")
    flat = tensor.detach().reshape(-1).cpu()
    with file_lock(path.with_suffix(".lock")):
        if not path.exists() or path.stat().st_size != flat.numel() * flat.element_size():
            atomic_write(path, flat.contiguous().view(torch.uint8).numpy().tobytes(), sync=False)
    mapped = torch.from_file(str(path), shared=False, size=flat.numel(), dtype=flat.dtype)
    _check_same(path, mapped, flat)
    return mapped


@torch.no_grad()
def share_frozen(config: EngineConfig, model: torch.nn.Module, known: bool) -> None:
    """Replace frozen weights on a CPU by a mapped file, so that N slots of a node hold one copy.

    Call it each time an engine has been built: at its start DeepSpeed's rank 0 broadcasts its weights, and every page
    written to becomes a private copy, even where nothing in it changes.

    Args:
        config: Of the sweep; its model names the file.
        model: Inside the engine. At ZeRO-3 a rank holds its shard of each weight, shared with the ranks of the same
            number in other slots.
        known: Whether the weights were compared with the file before.
    Raises:
        RuntimeError: If the file, left by another rank, holds other weights.
    """
    sharded = config.zero_stage == 3
    frozen: dict[str, Any] = {
        base_name(name): p for name, p in model.named_parameters() if not p.requires_grad
    }
    held = {name: p.ds_tensor if sharded else p for name, p in frozen.items()}
    path = _path(config, f"{_layout(config)}-frozen.safetensors" if sharded else "frozen.safetensors")
    with file_lock(path.with_suffix(".lock")):
        if not path.exists():
            temporary = _temporary(path)
            save_file({name: tensor.detach().contiguous() for name, tensor in held.items()}, temporary)
            temporary.replace(path)
    with safe_open(path, "pt") as file:
        for name, tensor in held.items():
            mapped = file.get_tensor(name)
            if not known:
                mine = _own_elements(frozen[name], dist.get_rank()) if sharded else tensor.numel()
                _check_same(path, mapped.reshape(-1)[:mine], tensor.reshape(-1)[:mine])
            tensor.data = mapped


def _own_elements(parameter: Any, rank: int) -> int:
    """Elements of a rank's shard of a weight at ZeRO-3; the rest of the shard is padding with arbitrary content."""
    share = parameter.ds_tensor.numel()
    return int(min(share, max(0, parameter.ds_numel - rank * share)))


def _layout(config: EngineConfig) -> str:
    """Name part for what a rank's tensors depend on besides the model."""
    share = f"-{dist.get_rank()}" if config.zero_stage == 3 else ""
    return f"zero{config.zero_stage}-{dist.get_world_size()}{share}"


def _path(config: EngineConfig, name: str) -> Path:
    identity = (
        f"{config.model_path}|{config.revision}|{config.vocab_size}|{config.precision}|{config.quantize}"
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    path = Path(config.scratch) / f"base-{digest}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _temporary(path: Path) -> Path:
    return path.with_suffix(f".{os.uname().nodename}.{os.getpid()}")


def _check_same(path: Path, mapped: torch.Tensor, loaded: torch.Tensor) -> None:
    if not torch.equal(mapped, loaded):
        raise RuntimeError(
            f"{path}: base weights on disk differ from the ones loaded; remove the file and run again"
        )
