"""Writes a trial's checkpoint behind its training.

`CheckpointWriter.save` copies the state to main memory, which is all that training waits for; a thread writes it. The
next `save` and `settle` wait for the thread. A checkpoint gets its name when the parts of all ranks are complete; until
then the former one stays, also where a rank or the machine dies in the middle.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from sweepft.files import atomic_write
from sweepft.training.checkpoint import COMPLETE, free_space_problem
from sweepft.training.deepspeed_engine import ZeroEngine

_HEADROOM: Final = 1.05
_PIECE: Final = 8 * 2**20
"""Bytes that are hashed and written at once: training is not held up by the interpreter lock meanwhile."""

_LOOK_EVERY: Final = 0.05
_DTYPES: Final = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names of the safetensors format."""


class CheckpointWriter:
    """Writes the checkpoints of one rank. Every method is called on all ranks of the slot at once.

    The copy in main memory stays allocated for the next checkpoint: as large as the rank's state, page-locked on a GPU.
    """

    def __init__(self) -> None:
        self._copies: dict[str, torch.Tensor] = {}
        self._writing: _Write | None = None

    def save(
        self, zero: ZeroEngine, folder: Path, facts: Mapping[str, Any], extra: Mapping[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Copy the state, and begin to write it into ``folder``. Waits for the checkpoint before.

        Args:
            zero: The engine in the middle of a trial.
            folder: Named after the trial's progress; older checkpoints of the same trial, its siblings, are removed
                when this one is complete.
            facts: JSON-able: the trial's identity and progress.
            extra: Tensors of the runner, kept with those of the engine.
        Returns:
            ``bytes`` that all ranks write, or ``skipped``: why nothing will be written; ``former``, what `settle` said
            of the checkpoint before.
        """
        former = self.settle(zero.device)
        tensors = {**zero.state(), **extra, "rng": torch.get_rng_state()}
        if zero.device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(zero.device)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        attempt = secrets.randbits(31) if dist.get_rank() == 0 else 0  # parts of two attempts never mix
        both = torch.tensor([size, attempt], dtype=torch.int64, device=zero.device)
        dist.all_reduce(both)
        total, attempt = (int(value) for value in both.tolist())
        temporary = folder.with_name(f".{folder.name}-{attempt:x}.tmp")
        problem = free_space_problem(folder.parent, int(total * _HEADROOM)) or self._copy(
            tensors, zero.device
        )
        problem = _agree(problem, zero.device)
        if problem is not None:
            return {"skipped": problem, "bytes": 0, "former": former}
        written = {"world_size": dist.get_world_size(), "facts": dict(facts)}
        self._writing = _Write(self._copies, temporary, folder, written)
        self._writing.start()
        return {"bytes": total, "former": former}

    def settle(self, device: torch.device, cancel: bool = False) -> dict[str, Any]:
        """Wait for the checkpoint that is being written, if there is one.

        Args:
            device: Of this rank.
            cancel: Whether it is of no more use: it is not finished then.
        Returns:
            ``seconds`` that writing took, 0 where none was being written; ``skipped``: why there is no new checkpoint.
        """
        write, self._writing = self._writing, None
        if write is None:
            return {"seconds": 0.0}
        if cancel:
            write.give_up()
        problem = _agree(write.wait_for_part(), device)
        if problem is not None:
            write.give_up()
        write.join()
        problem = _agree(problem or write.problem, device)
        return {"seconds": write.seconds} | ({} if problem is None else {"skipped": problem})

    def _copy(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> str | None:
        """Copy tensors to main memory; the problem, if there is too little of it."""
        if any(name not in tensors for name in self._copies):  # of a trial with other states
            self._copies = {}
        pinned = device.type == "cuda"
        try:
            for name, tensor in tensors.items():
                copy = self._copies.get(name)
                if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
                    self._copies[name] = copy
                copy.copy_(tensor.detach(), non_blocking=pinned)
        except (MemoryError, RuntimeError) as error:
            self._copies = {}
            return f"no main memory for a copy of the state: {type(error).__name__}: {error}"
        if pinned:
            torch.cuda.synchronize(device)
        return None


class _Write(threading.Thread):
    """Writes this rank's part; on rank 0 it then waits for the other parts and gives the folder its name.

    Attributes:
        problem: Why the checkpoint is not complete, or None.
        seconds: What writing took.
    """

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], temporary: Path, folder: Path, written: Mapping[str, Any]
    ) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._tensors = dict(tensors)
        self._temporary = temporary
        self._folder = folder
        self._written = written
        self._rank = dist.get_rank()
        self._part, self._unwanted = threading.Event(), threading.Event()
        self.problem: str | None = None
        self.seconds = 0.0

    def run(self) -> None:
        begin = time.perf_counter()
        try:
            self._write()
        except Exception as error:  # a checkpoint that is missing only costs time after a fault
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self.seconds = time.perf_counter() - begin
            self._part.set()
        if self._rank == 0:
            self._finish()
            self.seconds = time.perf_counter() - begin

    def wait_for_part(self) -> str | None:
        """Wait until this rank's part is written; the problem, or None."""
        self._part.wait()
        return self.problem

    def give_up(self) -> None:
        """Stop writing at the next piece; the folder gets no name."""
        self._unwanted.set()

    def _write(self) -> None:
        self._temporary.mkdir(parents=True, exist_ok=True)
        shard = self._temporary / f"rank{self._rank}.safetensors"
        digest = write_tensors(self._tensors, shard, self._unwanted)
        if digest is None:
            self.problem = "it was of no more use"
            return
        atomic_write(shard.with_suffix(".sha256"), digest)

    def _finish(self) -> None:
        """Wait for all parts, then publish them."""
        wanted = {f"rank{rank}.sha256" for rank in range(self._written["world_size"])}
        try:
            while self.problem is None and not wanted <= set(os.listdir(self._temporary)):
                if self._unwanted.wait(_LOOK_EVERY):
                    self.problem = "another rank could not write"
            if self.problem is None:
                self._publish()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
        if self.problem is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _publish(self) -> None:
        atomic_write(self._temporary / COMPLETE, json.dumps(self._written))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._temporary.rename(self._folder)
        for older in self._folder.parent.iterdir():
            if older != self._folder:
                shutil.rmtree(older, ignore_errors=True)


def write_tensors(tensors: Mapping[str, torch.Tensor], file: Path, unwanted: threading.Event) -> str | None:
    """Write tensors of main memory as a safetensors file, on disk when this returns.

    Returns:
        The SHA-256 of the file, computed while it is written; None if it became ``unwanted`` meanwhile.
    Raises:
        OSError: If it cannot be written.
    """
    header, offset = dict[str, Any](), 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # all are aligned
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as f:
        for first in (struct.pack("<Q", len(text)), text):
            digest.update(first)
            f.write(first)
        for _, tensor in ordered:
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
            for begin in range(0, len(data), _PIECE):
                if unwanted.is_set():
                    return None
                piece = data[begin : begin + _PIECE]
                digest.update(piece)
                f.write(piece)
        f.flush()
        os.fsync(f.fileno())
    return digest.hexdigest()


def _agree(problem: str | None, device: torch.device) -> str | None:
    """A problem of any rank, on all ranks: ranks that disagreed would wait for each other without end."""
    flag = torch.tensor(0 if problem is None else 1, device=device)
    dist.all_reduce(flag)
    return problem or ("another rank could not write" if flag.item() else None)
