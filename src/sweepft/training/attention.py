"""Attention over packed documents: several documents lie one after another in one row, and each sees only itself.

transformers builds no mask for an attention without a mask function, so the boundaries passed to the forward pass are
the only ones that apply. A forward pass without them is refused.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

DOCUMENTS = "sweepft_documents"
"""Name of this attention among those of transformers."""


@dataclass(frozen=True)
class Documents:
    """Where documents begin and end in a packed row.

    Attributes:
        lengths: Tokens of each document, in order.
        cu_seqlens: Cumulative lengths: 0 and the end of each document, int32, shape (documents + 1,), on the device.
        position_ids: Restarting at 0 with each document, shape (1, tokens), on the device.
    """

    lengths: tuple[int, ...]
    cu_seqlens: torch.Tensor
    position_ids: torch.Tensor

    @classmethod
    def of(cls, lengths: NDArray[np.int64], device: torch.device) -> Documents:
        """Lay documents of these lengths one after another."""
        cu_seqlens, position_ids = (
            torch.from_numpy(bounds).to(device) for bounds in document_bounds(lengths)
        )
        return cls(tuple(int(n) for n in lengths), cu_seqlens, position_ids)


def document_bounds(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """``cu_seqlens`` and ``position_ids`` of documents one after another, as `Documents` has them."""
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
    return cu_seqlens.astype(np.int32), positions[None]


def register(compiled: bool = False) -> None:
    """Make the attention known to transformers by its name.

    Args:
        compiled: Whether the code around it is compiled. The attention itself is left out: its parts differ from batch
            to batch, and each division would be compiled again.
    """
    from transformers import AttentionInterface

    outside = torch.compiler.disable(_attention) if compiled else _attention  # type: ignore[no-untyped-call]
    AttentionInterface.register(DOCUMENTS, outside)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    Args:
        module: The model's attention layer; its own mask is not used.
        query: Shape (1, heads, tokens, dim).
        key: Shape (1, heads of keys and values, tokens, dim).
        value: As ``key``.
        attention_mask: Must be None.
        dropout: Of the attention weights.
        scaling: Of the scores.
        sliding_window: Tokens a token sees, itself included; None for all before it.
        documents: Boundaries; a forward pass without them is refused.
        **kwargs: Ignored.
    Returns:
        Shape (1, tokens, heads, dim), and no weights.
    Raises:
        ValueError: Without boundaries: every token would see its row's other documents.
    """
    if documents is None or attention_mask is not None:
        raise ValueError(f"attention {DOCUMENTS} needs documents and no attention_mask")
    if dropout == 0.0 and _has_varlen(query):
        return _varlen(query, key, value, scaling, sliding_window, documents), None
    return _by_document(query, key, value, dropout, scaling, sliding_window, documents), None


def _by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    documents: Documents,
) -> torch.Tensor:
    """One document after the other, on any device."""
    parts = []
    apart = [torch.split(t, list(documents.lengths), dim=2) for t in (query, key, value)]
    for q, k, v in zip(*apart, strict=True):
        band = _band(q.shape[2], sliding_window, q.device)
        parts.append(
            F.scaled_dot_product_attention(
                q,
                k,
                v,
                band,
                dropout,
                is_causal=band is None,
                scale=scaling,
                enable_gqa=k.shape[1] != q.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2)


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Mask of a sliding window, shape (length, length); None where the window is no limit."""
    if window is None or length <= window:
        return None
    at = torch.arange(length, device=device)
    back = at[:, None] - at[None, :]
    return (back >= 0) & (back < window)


def _has_varlen(query: torch.Tensor) -> bool:
    """Whether torch's own FlashAttention over documents of many lengths can take these tensors."""
    if (
        query.device.type != "cuda"
        or query.dtype not in (torch.float16, torch.bfloat16)
        or query.shape[-1] > 256
    ):
        return False
    return _varlen_is_complete() and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _varlen_is_complete() -> bool:
    """Whether torch has the kernel with all the parameters used here: its first versions lack some."""
    return {"scale", "window_size"} <= _varlen_parameters()


@functools.cache
def _varlen_parameters() -> frozenset[str]:
    """Parameters of torch's kernel; none where torch has no such kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    documents: Documents,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    longest, cu_seqlens = max(documents.lengths), documents.cu_seqlens
    back = -1 if sliding_window is None else sliding_window - 1
    grouped: dict[str, Any] = {}
    if (times := q.shape[1] // k.shape[1]) > 1:
        if "enable_gqa" in _varlen_parameters():
            grouped = {"enable_gqa": True}
        else:  # torch 2.11: one head of keys and values for each of the queries
            k, v = (t.repeat_interleave(times, dim=1) for t in (k, v))
    out = varlen_attn(
        q, k, v, cu_seqlens, cu_seqlens, longest, longest, scale=scaling, window_size=(back, 0), **grouped
    )  # fmt: skip
    assert isinstance(out, torch.Tensor)  # a tuple only where more was asked for
    return out[None]
