"""Figures of GPUs by name: memory, arithmetic, and what they read and exchange in a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Gpu(NamedTuple):
    """One kind of GPU.

    Attributes:
        memory: GiB.
        tflops: Peak in bf16, dense, in 1e12 FLOP/s.
        reads: Memory bandwidth in 1e12 bytes/s.
        link: Bytes per second in 1e9 that a rank exchanges with the others of its node in collectives: about two thirds
            of one direction of NVLink, or PCIe.
    """

    memory: float
    tflops: float
    reads: float
    link: float


GPUS: Final[Mapping[str, Gpu]] = {
    "a10g": Gpu(24.0, 70.0, 0.6, 12.0),
    "a100-40gb": Gpu(40.0, 312.0, 1.56, 200.0),
    "a100": Gpu(80.0, 312.0, 2.0, 200.0),
    "b200": Gpu(180.0, 2250.0, 8.0, 600.0),
    "h100-pcie": Gpu(80.0, 756.0, 2.0, 25.0),
    "h100": Gpu(80.0, 989.0, 3.35, 300.0),
    "h200": Gpu(141.0, 989.0, 4.8, 300.0),
    "l4": Gpu(24.0, 121.0, 0.3, 12.0),
    "l40s": Gpu(48.0, 362.0, 0.86, 20.0),
    "rtx-3090": Gpu(24.0, 71.0, 0.94, 12.0),
    "rtx-4090": Gpu(24.0, 165.0, 1.0, 12.0),
    "rtx-5090": Gpu(32.0, 209.0, 1.79, 25.0),
    "rtx-a6000": Gpu(48.0, 155.0, 0.77, 20.0),
}
"""All but ``link`` by the makers' data sheets."""
