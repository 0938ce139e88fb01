"""Batches on their way to the device: one transfer each, which the host does not wait for.

A batch is laid out in one block of page-locked memory by the thread that collates it. A copy from such memory runs
beside the host, which queues the forward pass behind it. On CPUs the arrays of a batch are used where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sweepft.training.attention import Documents, document_bounds
from sweepft.training.batching import Batch

_ALIGNED = 64
"""Bytes: each array of a block begins at a multiple of it."""


@dataclass(frozen=True)
class Block:
    """The arrays of a batch in one piece of main memory.

    Attributes:
        memory: Shape (bytes,), uint8; page-locked where it is to be sent to a GPU.
        parts: Of each array where it begins, its type and its shape.
    """

    memory: torch.Tensor
    parts: Mapping[str, tuple[int, torch.dtype, tuple[int, ...]]]

    def on(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The arrays on a device, as views of one tensor."""
        memory = self.memory.to(device, non_blocking=True)
        return {
            name: memory[start : start + kind.itemsize * int(np.prod(shape))].view(kind).view(shape)
            for name, (start, kind, shape) in self.parts.items()
        }


@dataclass(frozen=True)
class DeviceBatch:
    """A batch as tensors on a device; its fields are those of ``Batch``.

    Attributes:
        documents: Boundaries of packed samples; None where they are padded.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    documents: Documents | None
    positions: torch.Tensor
    targets: torch.Tensor
    samples: torch.Tensor
    count: int
    weights: torch.Tensor | None


def lay_out(batch: Batch, pin: bool) -> Batch:
    """The batch with its arrays copied into one block.

    Args:
        batch: As collated.
        pin: Whether the block is page-locked, which needs CUDA.
    """
    arrays = _arrays(batch)
    parts, size = {}, 0
    for name, array in arrays.items():
        parts[name] = (size, array.dtype, tuple(array.shape))
        size += -(-array.nbytes // _ALIGNED) * _ALIGNED
    block = Block(torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=pin), parts)
    for name, there in block.on(torch.device("cpu")).items():
        there.copy_(arrays[name])
    return replace(batch, block=block)


def send(batch: Batch | DeviceBatch, device: torch.device) -> DeviceBatch:
    """The batch on a device; one that is on its device is returned as it is.

    Args:
        batch: Collated, and laid out or not.
        device: Where the model is.
    """
    if isinstance(batch, DeviceBatch):
        return batch
    if batch.block is None and device.type == "cpu":
        tensors = _arrays(batch)
    else:
        block = batch.block or lay_out(batch, pin=device.type == "cuda").block
        assert isinstance(block, Block)
        tensors = block.on(device)
    documents = None
    if batch.lengths is not None:
        documents = Documents(
            tuple(int(n) for n in batch.lengths), tensors["cu_seqlens"], tensors["position_ids"]
        )
    return DeviceBatch(
        input_ids=tensors["input_ids"],
        attention_mask=tensors.get("attention_mask"),
        documents=documents,
        positions=tensors["positions"],
        targets=tensors["targets"],
        samples=tensors["samples"],
        count=batch.count,
        weights=tensors.get("weights"),
    )


def _arrays(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch's arrays as tensors that share their memory."""
    names = ("input_ids", "attention_mask", "positions", "targets", "samples", "weights")
    arrays = {name: array for name in names if (array := getattr(batch, name)) is not None}
    if batch.lengths is not None:
        arrays |= dict(zip(("cu_seqlens", "position_ids"), document_bounds(batch.lengths), strict=True))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
