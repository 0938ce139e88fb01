"""A trial's checkpoint, from which an interrupted trial continues bit for bit.

Each rank writes its own shard of masters and optimizer state as safetensors (no pickle is ever loaded); weights follow
from the masters. A folder is valid only once rank 0 has written ``complete.json`` into it and given it its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sweepft.bounded_json import read_json_file
from sweepft.files import atomic_write
from sweepft.training.deepspeed_engine import ZeroEngine

_COMPLETE = "complete.json"
_HEADROOM = 1.05
_PROBE_BYTES = 64 * 2**20


def save(
    zero: ZeroEngine, folder: Path, facts: Mapping[str, Any], extra: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Write a checkpoint of all ranks into ``folder``, atomically. Called on every rank.

    Args:
        zero: The engine in the middle of a trial.
        folder: Named after the trial's progress; older checkpoints of the same trial, its siblings, are removed.
        facts: JSON-able: the trial's identity and progress.
        extra: Tensors of the runner, kept with those of the engine.
    Returns:
        ``bytes`` written by all ranks, or ``skipped``: why nothing was written.
    """
    tensors = {**zero.state(), **extra, "rng": torch.get_rng_state()}
    if zero.device.type == "cuda":
        tensors["rng_cuda"] = torch.cuda.get_rng_state(zero.device)
    size = torch.tensor(sum(t.numel() * t.element_size() for t in tensors.values()), dtype=torch.int64)
    size = size.to(zero.device)
    dist.all_reduce(size)
    temporary = folder.with_name(f".{folder.name}.tmp")
    problem = _agree(free_space_problem(folder.parent, int(size * _HEADROOM)), zero.device)
    problem = problem or _agree(_problem_of(_write_shard, temporary, tensors), zero.device)
    if problem is None and dist.get_rank() == 0:
        written = {"world_size": dist.get_world_size(), "facts": dict(facts)}
        problem = _problem_of(_publish, temporary, folder, written)
    problem = _agree(problem, zero.device)
    if problem is not None:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        return {"skipped": problem, "bytes": 0}
    return {"bytes": int(size)}


def estimate_seconds(zero: ZeroEngine, folder: Path) -> float:
    """About how long writing this rank's part of a checkpoint takes: by its bytes, and the time of a short write.

    Args:
        zero: The engine in a trial.
        folder: Of the trial's checkpoints; made if missing.
    Returns:
        Seconds; 0 where nothing can be written, which `save` will say.
    """
    size = sum(t.numel() * t.element_size() for t in zero.state().values())
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
        return 0.0
    return seconds * size / max(1, probe)


def _write_shard(temporary: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    temporary.mkdir(parents=True, exist_ok=True)
    shard = temporary / f"rank{dist.get_rank()}.safetensors"
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, shard)
    with shard.open("rb") as f:
        os.fsync(f.fileno())
        atomic_write(shard.with_suffix(".sha256"), hashlib.file_digest(f, "sha256").hexdigest())


def _publish(temporary: Path, folder: Path, written: Mapping[str, Any]) -> None:
    """Give a complete folder its name, and remove older ones."""
    atomic_write(temporary / _COMPLETE, json.dumps(written))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    for older in folder.parent.iterdir():
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)


def _problem_of(write: Callable[..., None], *args: Any) -> str | None:
    """Run a write; the storage problem, or None. A missing checkpoint only costs time after a fault."""
    try:
        write(*args)
    except (OSError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def restore(zero: ZeroEngine, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Load a checkpoint into the engine of a freshly started trial. Called on every rank.

    Returns:
        The facts and extra tensors given to ``save``.
    Raises:
        ValueError: If a shard is damaged or a link, or the world size differs.
    """
    if folder.is_symlink() or folder.parent.is_symlink():
        raise ValueError(f"{folder}: is a link; checkpoints are read from the run folder only")
    written = read_json_file(folder / _COMPLETE)
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


def _agree(problem: str | None, device: torch.device) -> str | None:
    """A problem of any rank, on all ranks: ranks that disagreed would wait for each other without end."""
    flag = torch.tensor(0 if problem is None else 1, device=device)
    dist.all_reduce(flag)
    return problem or ("another rank could not write" if flag.item() else None)
