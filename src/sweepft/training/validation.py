"""Validation loss: the objective of every trial, the same for any number of ranks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sweepft.data.cache import TokenSet
from sweepft.training.config import EngineConfig
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.forward import sample_losses
from sweepft.training.transfer import send

GROUPS = 64
"""Maximum number of sample groups with residuals; enough to estimate an error."""


@torch.no_grad()
def evaluate(zero: ZeroEngine, config: EngineConfig, sets: dict[str, TokenSet]) -> dict[str, Any]:
    """Mean loss of each validation set, and their weighted mean.

    Does not affect training: draws no random number and returns the engine to training mode.

    Returns:
        ``objective`` (nats per target token, weighted mean over sets), ``sets`` (name -> what `set_loss` returns) and
        ``seconds``. The standard error treats samples, not tokens, as independent.
    """
    start = time.perf_counter()
    results = {name: set_loss(zero, tokens) for name, tokens in sets.items()}
    weights = {s.name: s.weight for s in config.validation}
    total = sum(weights.values())
    objective = sum(weights[name] * r["loss"] for name, r in results.items()) / total
    return {"objective": objective, "sets": results, "seconds": time.perf_counter() - start}


@torch.no_grad()
def set_loss(zero: ZeroEngine, tokens: TokenSet) -> dict[str, Any]:
    """Mean loss of one token set; returns the engine to training mode.

    Returns:
        ``loss`` and ``stderr`` (nats per target token, weighted as in training), ``tokens``, ``samples``, and
        ``residuals`` (nats): for up to `GROUPS` groups of samples, every n-th one, the sum of their losses minus what
        the mean loss predicts. The
        residuals of two models on the same set, divided by ``tokens``, give the standard error of their difference;
        where turns have weights, they are scaled for that.
    """
    zero.eval()
    try:
        return _one_set(zero, tokens)
    finally:
        zero.train()


def _one_set(zero: ZeroEngine, tokens: TokenSet) -> dict[str, Any]:
    rank, world = dist.get_rank(), dist.get_world_size()
    sums = torch.zeros(len(tokens), dtype=torch.float64)
    layout = zero.layout
    parts: list[tuple[Any, torch.Tensor]] = []
    for micro in layout.split_micro_batches(np.asarray(tokens.lengths), world)[rank]:
        # A filler row keeps ZeRO-3 ranks in step.
        rows = micro.rows if len(micro.rows) else np.zeros(1, dtype=np.int64)
        batch = send(layout.collate([tokens.weighted_row(int(i)) for i in rows]), zero.device)
        losses = sample_losses(zero.logits(batch), batch)
        if len(micro.rows):
            parts.append((micro.rows, losses))
    for rows, losses in parts:  # read once all passes are queued, so that none waits for another one
        sums[torch.from_numpy(rows)] = losses.double().cpu()
    sums = _all_reduce(sums, zero.device)
    loss_sums, weights = sums.numpy(), np.asarray(tokens.weights)
    loss = float(loss_sums.sum() / weights.sum())
    residuals = loss_sums - loss * weights
    n = len(tokens)
    stderr = float(np.sqrt(n / max(1, n - 1) * np.square(residuals).sum()) / weights.sum())
    count = int(tokens.targets.sum())
    scaled = residuals * (count / float(weights.sum()))  # by 1, unless turns have weights
    groups = np.bincount(np.arange(n) % GROUPS, weights=scaled)
    return {
        "loss": loss,
        "stderr": stderr,
        "tokens": count,
        "samples": n,
        "residuals": [float(f"{value:.5g}") for value in groups],
    }


def _all_reduce(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = tensor.to(device)
    dist.all_reduce(moved)
    return moved.cpu()
