"""Base weights as files on a node, memory-mapped by all its ranks: one copy in the page cache, however many slots.

The idea to keep in mind: a mapping is private. Who writes to it gets a page of its own, and the file stays what it was.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from sweepft.engine.plan import EnginePlan

__all__ = ["share_frozen", "shared_copy"]


def shared_copy(plan: EnginePlan, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A memory-mapped copy of base weights, flat, on the CPU.

    Args:
        plan: Of the sweep; its model names the file.
        name: Of the tensor among those of the model.
        tensor: The weights as loaded.
    Raises:
        RuntimeError: If the file, left by another rank, holds other weights.
    """
    stage = plan.zero_stage
    share = f"-{dist.get_rank()}" if stage == 3 else ""
    path = _place(plan, f"zero{stage}-{dist.get_world_size()}{share}-{name}.bin")
    flat = tensor.detach().reshape(-1).cpu()
    if not path.exists() or path.stat().st_size != flat.numel() * flat.element_size():
        temporary = _temporary(path)
        temporary.write_bytes(flat.contiguous().view(torch.uint8).numpy().tobytes())
        temporary.replace(path)
    mapped = torch.from_file(str(path), shared=False, size=flat.numel(), dtype=flat.dtype)
    _same(path, mapped, flat)
    return mapped


@torch.no_grad()
def share_frozen(plan: EnginePlan, model: torch.nn.Module) -> None:
    """Let frozen weights on a CPU lie in a mapped file instead of this process: N slots of a node hold one copy.

    Weights that transformers maps from the model's own files are shared already; those it had to convert or widen, or
    that DeepSpeed's broadcast at the start has written to, are not. Called once the engine is built.

    Raises:
        RuntimeError: If the file, left by another rank, holds other weights.
    """
    frozen = {
        name.replace(".base_layer.", "."): p for name, p in model.named_parameters() if not p.requires_grad
    }
    path = _place(plan, "frozen.safetensors")
    if not path.exists():
        temporary = _temporary(path)
        save_file({name: p.detach().contiguous() for name, p in frozen.items()}, temporary)
        temporary.replace(path)
    with safe_open(path, "pt") as file:
        for name, parameter in frozen.items():
            mapped = file.get_tensor(name)
            _same(path, mapped, parameter)
            parameter.data = mapped


def _place(plan: EnginePlan, name: str) -> Path:
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
