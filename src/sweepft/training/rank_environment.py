"""The environment of a rank, set before its libraries are imported. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_DEFAULTS: Final = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NCCL_DEBUG": "WARN",  # to standard output, which is the rank's log
}


def set_rank_environment(given: Mapping[str, str]) -> None:
    """Set the spec's variables, then defaults where neither spec nor user have set them.

    On GPUs, segments of memory that grow (``expandable_segments``) waste less of it where sizes change from batch to
    batch.
    """
    os.environ.update(given)
    allocator = "PYTORCH_ALLOC_CONF" if _torch() >= (2, 10) else "PYTORCH_CUDA_ALLOC_CONF"
    if not any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        os.environ[allocator] = "expandable_segments:True"
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def _torch() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version("torch").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return (0, 0)


def device_index(ids: Sequence[str | int], visible: str | None) -> int:
    """The place of a rank's GPU among those that its process sees.

    Ray hides the other GPUs, so that the place is 0, unless it is asked not to
    (``RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES``): then every rank sees all of them.

    Args:
        ids: Ray's ids of the rank's GPUs; the first one counts.
        visible: ``CUDA_VISIBLE_DEVICES``, or None.
    """
    if not ids:
        return 0
    mine = str(ids[0])
    if visible:
        names = [name.strip() for name in visible.split(",")]
        return names.index(mine) if mine in names else 0
    return int(mine) if mine.isdigit() else 0
