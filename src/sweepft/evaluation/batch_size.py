"""How many sequences a forward pass takes where the spec leaves it open: as many as half of the free memory holds.

The half that is left covers what is not counted: fragments, copies while keys and values grow, and other processes. On
CPUs it is a share of the machine's memory.
"""

from __future__ import annotations

import os
from typing import Any, Final

import torch
import torch.distributed as dist

from sweepft.evaluation.tasks import LARGEST_BATCH

_OF_HOST: Final = 1 / 16
"""Share of a machine's memory for the batches of all its ranks on CPUs, whatever else the machine does."""


def fitting_batch(model: Any, longest: int, *, generated: bool) -> int:
    """Sequences per batch: a power of two up to `LARGEST_BATCH`, the same on every rank. Called on every rank.

    Args:
        model: A transformers causal language model, as it stands in memory.
        longest: Tokens of the longest sequence, with its answer.
        generated: Whether answers are generated, which keeps keys and values; otherwise all logits are computed.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    on_gpu = model.device.type == "cuda"
    room = free_bytes(model.device) / 2 if on_gpu else host_bytes() * _OF_HOST / ranks
    size = power_of_two(room / sequence_bytes(model, longest, generated=generated))
    if ranks > 1:
        least = torch.tensor(size, device=model.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        size = int(least.item())
    return size


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that tensors can still take: what the driver has free, and what torch holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def host_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def power_of_two(count: float) -> int:
    """The largest power of two that is not above ``count``, from 1 to `LARGEST_BATCH`."""
    size = 1
    while size < LARGEST_BATCH and 2 * size <= count:
        size *= 2
    return size


def sequence_bytes(model: Any, tokens: int, *, generated: bool) -> int:
    """Bytes that a sequence takes beside the weights: keys and values of all layers, or logits and their logarithms;
    and the activations of one layer.
    """
    config = model.config.get_text_config()
    hidden = config.hidden_size
    heads = _largest(config, "num_attention_heads", 1)
    key_width = _largest(config, "num_key_value_heads", heads) * _largest(config, "head_dim", hidden // heads)
    wide = _largest(config, "intermediate_size", 4 * hidden)
    kept = 2 * (config.num_hidden_layers * key_width if generated else config.vocab_size)
    size = next(model.parameters()).element_size()
    return int(size * tokens * (kept + 4 * hidden + 3 * wide))


def _largest(config: Any, name: str, default: int) -> int:
    """A number of a model's config, the largest one where layers differ; ``default`` where it has none."""
    value = getattr(config, name, None)
    return int(max(value) if isinstance(value, list | tuple) else value or default)
