"""Sums of target-token losses per row: what training, held-out evaluation and block records are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["row_losses"]


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row, summed over its target tokens.

    Args:
        logits: Next-token logits, shape (rows, length, vocabulary).
        labels: Token ids, -100 where a position is no target, shape (rows, length).
    Returns:
        Nats, shape (rows,), float32, differentiable. Zero for a row without targets.
    """
    targets = labels[:, 1:]
    wanted = targets != -100
    # Softmax only where there is a target: prompts are often half of the tokens.
    losses = F.cross_entropy(logits[:, :-1][wanted].float(), targets[wanted], reduction="none")
    rows = wanted.nonzero(as_tuple=True)[0]
    return torch.zeros(len(labels), dtype=torch.float32, device=logits.device).index_add(0, rows, losses)
