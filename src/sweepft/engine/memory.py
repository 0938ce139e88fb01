"""How many rows a rank can run forward and backward at once: from two short probes, never by running out."""

from __future__ import annotations

import torch

__all__ = ["CPU_TOKENS", "device_memory", "largest_micro_batch"]

CPU_TOKENS = 8192
"""Tokens of a micro-batch on a CPU, where larger ones are no faster and nothing bounds them well."""

_USABLE = 0.9


def largest_micro_batch(peaks: tuple[int, int], total: int, most: int) -> int:
    """Rows that fit, taking memory as a line in the number of rows.

    Args:
        peaks: Peak bytes with one and with two rows of the longest length.
        total: Bytes of the device.
        most: More rows than this are of no use (a rank's whole share of the largest batch).
    Returns:
        A power of two in [1, most], or ``most`` itself where all of it fits.
    """
    one, two = peaks
    row = max(1, two - one)
    fit = 1 + max(0, int(_USABLE * total) - one) // row
    if fit >= most:
        return most
    return 1 << (max(1, fit).bit_length() - 1)


def device_memory(device: torch.device) -> tuple[int, int]:
    """Peak bytes allocated since the last call, and bytes of the device. For CUDA devices."""
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak, torch.cuda.get_device_properties(device).total_memory
