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
from sweepft.training.attention import DOCUMENTS, register
from sweepft.training.batching import Batch
from sweepft.training.transfer import DeviceBatch, send

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Nats by which losses of a token, computed in two ways, may differ on average, by the precision of the weights."""


def losses_agree(difference: float, precision: torch.dtype) -> bool:
    """Whether losses of tokens differ by no more than rounding does: ``difference`` nats on average."""
    return difference <= _TOLERANCE[precision]


def attend_by_documents(model: Any) -> bool:
    """Switch the model to attention by documents where its family is proven to pack. Returns whether it now packs."""
    if model.config.model_type not in PACKABLE:
        return False
    register()
    model.set_attn_implementation(DOCUMENTS)
    return bool(model.config._attn_implementation == DOCUMENTS)  # remote code may ignore it


def scored_logits(
    model: Callable[..., Any], batch: Batch | DeviceBatch, device: torch.device
) -> torch.Tensor:
    """Next-token logits at the batch's target positions, shape (targets, vocabulary).

    Args:
        model: A transformers causal language model, or a DeepSpeed engine around one.
        batch: Collated samples, on the device or not yet.
        device: Device of the model.
    """
    here = send(batch, device)
    if here.documents is not None:
        # No mask and no cache: with either, transformers would mask the packed row as one document.
        out = model(
            input_ids=here.input_ids, position_ids=here.documents.position_ids, documents=here.documents,
            logits_to_keep=here.positions, use_cache=False,
        )  # fmt: skip
        packed: torch.Tensor = out.logits[0]
        return packed
    assert here.attention_mask is not None
    out = model(input_ids=here.input_ids, attention_mask=here.attention_mask, use_cache=False)
    padded: torch.Tensor = out.logits.flatten(0, 1)[here.positions]
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
    if not losses_agree(difference, precision):
        raise PackingMismatch(
            f"packed and padded losses differ by {difference:.2g} nats per token, more than rounding "
            f"({_TOLERANCE[precision]:g}); set train.micro_batch to a number of samples instead"
        )


def token_losses(logits: torch.Tensor, batch: Batch | DeviceBatch) -> torch.Tensor:
    """Cross-entropy of each target token.

    Args:
        logits: At the batch's target positions, shape (targets, vocabulary).
        batch: The batch of these logits.
    Returns:
        Nats, shape (targets,), float32, differentiable.
    """
    return F.cross_entropy(logits.float(), send(batch, logits.device).targets, reduction="none")


def sample_losses(logits: torch.Tensor, batch: Batch | DeviceBatch) -> torch.Tensor:
    """Cross-entropy of each sample, summed over its target tokens with their weights.

    Args:
        logits: At the batch's target positions, shape (targets, vocabulary).
        batch: The batch of these logits.
    Returns:
        Nats, shape (samples,), float32, differentiable. Zero for a sample without targets.
    """
    here = send(batch, logits.device)
    sums = torch.zeros(here.count, dtype=torch.float32, device=logits.device)
    losses = token_losses(logits, here)
    if here.weights is not None:
        losses = losses * here.weights
    return sums.index_add(0, here.samples, losses)
