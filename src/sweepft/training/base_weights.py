"""Base weights as files on a node, memory-mapped by all its ranks: one copy in the page cache, however many slots.

The idea to keep in mind: a mapping is private. Who writes to it gets a page of its own, and the file stays what it was.
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

from sweepft.training.config import EngineConfig
from sweepft.training.file_lock import file_lock


def shared_copy(plan: EngineConfig, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A memory-mapped copy of base weights, flat, on the CPU.

    Args:
        plan: Of the sweep; its model names the file.
        name: Of the tensor among those of the model.
        tensor: The weights as loaded.
    Raises:
        RuntimeError: If the file, left by another rank, holds other weights.
    """
    path = _place(plan, f"{_layout(plan)}-{name}.bin")
    flat = tensor.detach().reshape(-1).cpu()
    with file_lock(path.with_suffix(".lock")):
        if not path.exists() or path.stat().st_size != flat.numel() * flat.element_size():
            temporary = _temporary(path)
            temporary.write_bytes(flat.contiguous().view(torch.uint8).numpy().tobytes())
            temporary.replace(path)
    mapped = torch.from_file(str(path), shared=False, size=flat.numel(), dtype=flat.dtype)
    _same(path, mapped, flat)
    return mapped


@torch.no_grad()
def share_frozen(plan: EngineConfig, model: torch.nn.Module, known: bool) -> None:
    """Let frozen weights on a CPU lie in a mapped file instead of this process: N slots of a node hold one copy.

    Called each time that an engine has been built: at its start DeepSpeed's rank 0 sends its weights to the others, and
    what is written to is a page of one's own from then on, though nothing in it has changed.

    Args:
        plan: Of the sweep; its model names the file.
        model: Inside the engine. At ZeRO-3 a rank holds its share of each weight, and shares that with the ranks of
            the same number in other slots.
        known: Whether the weights were compared with the file before.
    Raises:
        RuntimeError: If the file, left by another rank, holds other weights.
    """
    sharded = plan.zero_stage == 3
    frozen: dict[str, Any] = {
        name.replace(".base_layer.", "."): p for name, p in model.named_parameters() if not p.requires_grad
    }
    held = {name: p.ds_tensor if sharded else p for name, p in frozen.items()}
    path = _place(plan, f"{_layout(plan)}-frozen.safetensors" if sharded else "frozen.safetensors")
    with file_lock(path.with_suffix(".lock")):
        if not path.exists():
            temporary = _temporary(path)
            save_file({name: tensor.detach().contiguous() for name, tensor in held.items()}, temporary)
            temporary.replace(path)
    with safe_open(path, "pt") as file:
        for name, tensor in held.items():
            mapped = file.get_tensor(name)
            if not known:
                mine = _own_part(frozen[name], dist.get_rank()) if sharded else tensor.numel()
                _same(path, mapped.reshape(-1)[:mine], tensor.reshape(-1)[:mine])
            tensor.data = mapped


def _own_part(parameter: Any, rank: int) -> int:
    """Elements of a rank's share of a weight at ZeRO-3; what follows fills it up, and holds anything."""
    share = parameter.ds_tensor.numel()
    return int(min(share, max(0, parameter.ds_numel - rank * share)))


def _layout(plan: EngineConfig) -> str:
    """What a rank's tensors depend on beside the model."""
    share = f"-{dist.get_rank()}" if plan.zero_stage == 3 else ""
    return f"zero{plan.zero_stage}-{dist.get_world_size()}{share}"


def _place(plan: EngineConfig, name: str) -> Path:
    identity = f"{plan.model_path}|{plan.revision}|{plan.vocab_size}|{plan.precision}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    path = Path(plan.scratch) / f"base-{digest}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _temporary(path: Path) -> Path:
    return path.with_suffix(f".{os.uname().nodename}.{os.getpid()}")


def _same(path: Path, mapped: torch.Tensor, loaded: torch.Tensor) -> None:
    if not torch.equal(mapped, loaded):
        raise RuntimeError(
            f"{path}: base weights on disk differ from the ones loaded; remove the file and run again"
        )
