"""A trial's checkpoint, from which an interrupted trial continues bit for bit: reading it, and what it will cost.

Each rank writes its own shard of masters and optimizer state as safetensors (no pickle is ever loaded); weights follow
from the masters. A folder is valid only once rank 0 has written ``complete.json`` into it and given it its name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors import safe_open

from sweepft.bounded_json import read_json_file
from sweepft.training.deepspeed_engine import ZeroEngine

COMPLETE: Final = "complete.json"
"""Of a folder that has the parts of all ranks."""

_PROBE_BYTES: Final = 64 * 2**20


def estimate_seconds(zero: ZeroEngine, folder: Path) -> dict[str, float]:
    """About how long this rank's part of a checkpoint takes: by its bytes, and a short copy and write.

    Args:
        zero: The engine in a trial.
        folder: Of the trial's checkpoints; made if missing.
    Returns:
        ``stalled``: seconds that training waits for the copy; ``written``: seconds of the write behind it, 0 where
        nothing can be written, which the write will say.
    """
    state = zero.state()
    size = sum(t.numel() * t.element_size() for t in state.values())
    largest = max(state.values(), key=torch.Tensor.numel).reshape(-1)
    part = largest[: _PROBE_BYTES // largest.element_size()]
    begin = time.perf_counter()
    part.to("cpu", copy=True)
    stalled = (time.perf_counter() - begin) * size / (part.numel() * part.element_size())
    probe = min(size, _PROBE_BYTES)
    file = folder / f".probe{dist.get_rank()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        with file.open("wb") as f:
            f.write(os.urandom(1 << 16) * -(-probe // (1 << 16)))
            os.fsync(f.fileno())
        seconds = time.perf_counter() - begin
        file.unlink()
    except OSError:
        return {"stalled": stalled, "written": 0.0}
    return {"stalled": stalled, "written": seconds * size / max(1, probe)}


def restore(zero: ZeroEngine, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Load a checkpoint into the engine of a freshly started trial. Called on every rank.

    Returns:
        The facts and extra tensors given to ``save``.
    Raises:
        ValueError: If a shard is damaged or a link, or the world size differs.
    """
    if folder.is_symlink() or folder.parent.is_symlink():
        raise ValueError(f"{folder}: is a link; checkpoints are read from the run folder only")
    written = read_json_file(folder / COMPLETE)
    world, rank = dist.get_world_size(), dist.get_rank()
    if written["world_size"] != world:
        raise ValueError(f"{folder}: written by {written['world_size']} ranks, not by {world}")
    shard = folder / f"rank{rank}.safetensors"
    if shard.is_symlink():
        raise ValueError(f"{shard}: is a link; checkpoints are read from the run folder only")
    with shard.open("rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != (folder / f"rank{rank}.sha256").read_text(
            encoding="utf-8"
        ):
            raise ValueError(f"{shard}: does not match the digest it was written with")
    shards: list[Any] = [safe_open(folder / f"rank{i}.safetensors", "pt") for i in range(world)]
    mine = shards[rank]
    zero.load_state(mine.keys(), mine.get_tensor, [s.get_tensor for s in shards])
    torch.set_rng_state(mine.get_tensor("rng"))
    if zero.device.type == "cuda":
        torch.cuda.set_rng_state(mine.get_tensor("rng_cuda"), zero.device)
    known = zero.state().keys() | {"rng", "rng_cuda"}
    extra = {name: mine.get_tensor(name) for name in mine.keys() if name not in known}  # noqa: SIM118 - no mapping
    return written["facts"], extra


def free_space_problem(folder: Path, needed: int) -> str | None:
    """Why ``needed`` bytes cannot be written below ``folder``, or None."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if free >= needed:
        return None
    return f"{folder} has {free / 1e9:.1f} GB free and a checkpoint takes {needed / 1e9:.1f} GB"
