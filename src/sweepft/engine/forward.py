"""A forward pass over padded or packed samples, and the check that both give the same.

The idea to keep in mind: a model of a family that is proven packable attends by documents
(``sweepft.engine.attention``), all others the way transformers does. Packed, logits are made at target positions only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sweepft.engine.attention import DOCUMENTS, Documents, register
from sweepft.engine.batches import Batch
from sweepft.errors import PackingMismatch
from sweepft.spec import PACKABLE

__all__ = ["attend_by_documents", "compare_with_padding", "scored_logits"]

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Nats by which packed and padded losses of a token may differ on average, by the precision of the weights."""


def attend_by_documents(model: Any) -> bool:
    """Let the model run packed samples, where its family is proven and its code lets it. Returns whether it does."""
    if model.config.model_type not in PACKABLE:
        return False
    register()
    model.set_attn_implementation(DOCUMENTS)
    return bool(model.config._attn_implementation == DOCUMENTS)  # code of its own may not follow


def scored_logits(model: Callable[..., Any], batch: Batch, device: torch.device) -> torch.Tensor:
    """Next-token logits at the batch's target positions, shape (targets, vocabulary).

    Args:
        model: A transformers causal language model, or a DeepSpeed engine around one.
        batch: What to run.
        device: Of the model.
    """
    ids = torch.from_numpy(batch.input_ids).to(device)
    wanted = torch.from_numpy(batch.positions).to(device)
    if batch.lengths is not None:
        # No mask and no cache: with either, transformers would mask the packed row its own way, and wrongly.
        documents = Documents.of(batch.lengths, device)
        out = model(
            input_ids=ids, position_ids=documents.position_ids, documents=documents, logits_to_keep=wanted,
            use_cache=False,
        )  # fmt: skip
        packed: torch.Tensor = out.logits[0]
        return packed
    assert batch.attention_mask is not None
    mask = torch.from_numpy(batch.attention_mask).to(device)
    out = model(input_ids=ids, attention_mask=mask, use_cache=False)
    padded: torch.Tensor = out.logits.flatten(0, 1)[wanted]
    return padded


def compare_with_padding(packed: torch.Tensor, padded: torch.Tensor, precision: torch.dtype) -> None:
    """Refuse packing when it changes the losses.

    Args:
        packed: Loss of each target token of some samples, packed.
        padded: The same, each sample in a row of its own.
        precision: Of the weights.
    Raises:
        PackingMismatch: If they differ by more than rounding does.
    """
    difference = float((packed - padded).abs().mean())
    if not difference <= _TOLERANCE[precision]:
        raise PackingMismatch(
            f"packed samples give other losses than padded ones: {difference:.2g} nats a token apart, where rounding "
            f"makes less than {_TOLERANCE[precision]:g}; set train.micro_batch to a number of samples instead"
        )
