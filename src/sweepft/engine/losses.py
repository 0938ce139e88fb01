"""Sums of target-token losses per sample: what training, held-out evaluation and block records are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sweepft.engine.batches import Batch

__all__ = ["sample_losses", "token_losses"]


def token_losses(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each target token.

    Args:
        logits: At the batch's target positions, shape (targets, vocabulary).
        batch: What the logits are of.
    Returns:
        Nats, shape (targets,), float32, differentiable.
    """
    targets = torch.from_numpy(batch.targets).to(logits.device)
    return F.cross_entropy(logits.float(), targets, reduction="none")


def sample_losses(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each sample, summed over its target tokens.

    Args:
        logits: At the batch's target positions, shape (targets, vocabulary).
        batch: What the logits are of.
    Returns:
        Nats, shape (samples,), float32, differentiable. Zero for a sample without targets.
    """
    samples = torch.from_numpy(batch.samples).to(logits.device)
    sums = torch.zeros(batch.count, dtype=torch.float32, device=logits.device)
    return sums.index_add(0, samples, token_losses(logits, batch))
