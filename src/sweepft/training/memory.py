"""Device memory: the largest micro-batch from two short probes, a rank's share of a GPU, releasing a ZeRO-3 engine."""

from __future__ import annotations

from typing import Any

import torch

CPU_TOKENS = 8192
"""Tokens of a micro-batch on a CPU, where larger ones are no faster and memory sets no clear bound."""
_USABLE = 0.9
"""Share of a GPU's memory to fill."""
_OVERHEAD = 2**30
"""Bytes of a GPU that a process uses besides torch's allocations: CUDA context, NCCL, kernels."""


def largest_micro_batch(peaks: tuple[int, int], total: int, most: int) -> int:
    """Rows that fit, assuming that memory grows linearly with the rows.

    Args:
        peaks: Peak bytes with one and with two rows of the longest length.
        total: Bytes of the device.
        most: Maximum: a rank's whole share of the largest batch.
    Returns:
        A power of two in [1, most], or ``most`` itself where all of it fits.
    """
    one, two = peaks
    row = max(1, two - one)
    fit = 1 + max(0, int(_USABLE * total) - one) // row
    if fit >= most:
        return most
    return 1 << (max(1, fit).bit_length() - 1)


def memory_share(gpus: float, total: int) -> float:
    """Share of a GPU's memory that a rank may allocate, leaving room for its CUDA context and kernels.

    Args:
        gpus: The rank's share of the GPU, in (0, 1).
        total: Bytes of the GPU.
    Returns:
        A fraction of ``total``, below ``gpus``; ``gpus / 2`` where the share is smaller than twice that overhead.
    """
    return max(gpus / 2, gpus - _OVERHEAD / total)


def device_memory(device: torch.device) -> tuple[int, int]:
    """Peak bytes allocated since the last call, and bytes this process may allocate. For CUDA devices."""
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    total = torch.cuda.get_device_properties(device).total_memory
    return peak, int(total * torch.cuda.get_per_process_memory_fraction(device))


def release_engine_memory(engine: Any) -> None:
    """Free all tensors of a destroyed DeepSpeed engine of stage 3, model included.

    Frozen weights on a CPU stay: they are mapped from a file shared by all slots of the node.
    """
    from deepspeed.runtime.zero import parameter_offload

    parameter_offload.FWD_MODULE_STACK.clear()
    for parameter in engine.module.parameters():
        if parameter.device.type == "cpu" and not parameter.requires_grad:
            continue
        parameter.ds_tensor = parameter.grad = None
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    inner = engine.optimizer.optimizer
    inner.state.clear()
    inner.param_groups.clear()
    vars(engine.optimizer).clear()
    engine.optimizer = None
