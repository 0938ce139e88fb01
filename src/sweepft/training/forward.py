"""A forward pass over padded or packed samples, token and sample losses, and the check that both layouts agree.

A model of a family proven to pack uses ``sweepft.training.attention``; all others use transformers' own. Logits are
computed at target positions only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from sweepft.errors import PackingMismatch
from sweepft.spec import PACKABLE
from sweepft.training.attention import DOCUMENTS, Documents, register
from sweepft.training.batching import Batch

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Nats by which packed and padded losses of a token may differ on average, by the precision of the weights."""


def attend_by_documents(model: Any) -> bool:
    """Switch the model to attention by documents where its family is proven to pack. Returns whether it now packs."""
    if model.config.model_type not in PACKABLE:
        return False
    register()
    model.set_attn_implementation(DOCUMENTS)
    return bool(model.config._attn_implementation == DOCUMENTS)  # remote code may ignore it


def scored_logits(model: Callable[..., Any], batch: Batch, device: torch.device) -> torch.Tensor:
    """Next-token logits at the batch's target positions, shape (targets, vocabulary).

    Args:
        model: A transformers causal language model, or a DeepSpeed engine around one.
        batch: Collated samples.
        device: Device of the model.
    """
    ids = torch.from_numpy(batch.input_ids).to(device)
    wanted = torch.from_numpy(batch.positions).to(device)
    if batch.lengths is not None:
        # No mask and no cache: with either, transformers would mask the packed row as one document.
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
    """Check that packing does not change the losses.

    Args:
        packed: Loss of each target token of some samples, packed.
        padded: The same, each sample in a row of its own.
        precision: Precision of the weights.
    Raises:
        PackingMismatch: If they differ by more than rounding does.
    """
    difference = float((packed - padded).abs().mean())
    if not difference <= _TOLERANCE[precision]:
        raise PackingMismatch(
            f"packed and padded losses differ by {difference:.2g} nats per token, more than rounding "
            f"({_TOLERANCE[precision]:g}); set train.micro_batch to a number of samples instead"
        )


def token_losses(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each target token.

    Args:
        logits: At the batch's target positions, shape (targets, vocabulary).
        batch: The batch of these logits.
    Returns:
        Nats, shape (targets,), float32, differentiable.
    """
    targets = torch.from_numpy(batch.targets).to(logits.device)
    return F.cross_entropy(logits.float(), targets, reduction="none")


def sample_losses(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each sample, summed over its target tokens with their weights.

    Args:
        logits: At the batch's target positions, shape (targets, vocabulary).
        batch: The batch of these logits.
    Returns:
        Nats, shape (samples,), float32, differentiable. Zero for a sample without targets.
    """
    samples = torch.from_numpy(batch.samples).to(logits.device)
    sums = torch.zeros(batch.count, dtype=torch.float32, device=logits.device)
    losses = token_losses(logits, batch)
    if batch.weights is not None:
        losses = losses * torch.from_numpy(batch.weights).to(logits.device)
    return sums.index_add(0, samples, losses)
