"""Small token sets and configs for tests of the training package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sweepft.data.cache import write_token_set
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig, ValidationSet

VOCAB = 384


def write_rows(
    folder: Path, rows: int, seed: int, domains: Sequence[str] = ("any",), *, weighted: bool = False
) -> Path:
    """Random rows of uneven length, about two thirds of the tokens trained on; domains in turn.

    With `weighted`, two of three rows have weights: one for the first half of their tokens, one for the second.
    """
    rng = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        n = int(rng.integers(4, 24))
        mask = rng.random(n) < 0.66
        mask[0] = False
        mask[-1] = True
        ids = rng.integers(4, VOCAB, n)
        if weighted and i % 3:
            halves = np.where(np.arange(n) < n // 2, *rng.choice([0.1, 0.5, 1.0, 3.0], 2)).astype(np.float32)
            mask = mask * halves
        made.append((ids, mask, domains[i % len(domains)]))
    write_token_set(folder, made, digest=f"{seed:064d}", vocab_size=VOCAB)
    return folder


def engine_config(model: Path, folder: Path, **changes: Any) -> EngineConfig:
    """A config over 50 training and 10 validation rows."""
    defaults: dict[str, Any] = {
        "model_path": str(model),
        "train_cache": str(write_rows(folder / "train", 50, 1)),
        "validation": (ValidationSet("held", str(write_rows(folder / "held", 10, 2)), 1.0),),
        "budget_samples": 64,
        "micro_batch": 4,
        "scratch": str(folder / "base"),
        "rungs": (0.5,),
        "zero_stage": 2,
        "precision": "fp32",
    }
    return EngineConfig(**{**defaults, **changes})


def train_config(**changes: Any) -> TrainConfig:
    """A trial's config. The optimizer may be given flat: its name, and constants such as ``weight_decay=0.1``."""
    fields = {
        "batch_size": 8,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup": {"steps": 2},
        "optimizer": {"betas": (0.9, 0.999)},
        "budget": {"samples": 64},
        "micro_batch": 4,
    }
    return _with_changes(fields, {"budget_samples": 64} | changes)


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Another trial's config: the same but for the changes, which may be flat as above."""
    return _with_changes(config.model_dump(), changes)


def _with_changes(fields: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    constants = ("betas", "eps", "momentum", "weight_decay")
    optimizer = fields["optimizer"] | {key: changes.pop(key) for key in constants if key in changes}
    if "optimizer" in changes:
        optimizer["name"] = changes.pop("optimizer")
    return TrainConfig.model_validate({**fields, **changes, "optimizer": optimizer})
