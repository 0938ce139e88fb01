"""Small token sets and plans for engine tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sweepft.data.cache import write_token_set
from sweepft.training.config import EngineConfig, TrialConfig, ValidationSet

VOCAB = 384


def write_rows(folder: Path, rows: int, seed: int, domains: Sequence[str] = ("any",)) -> Path:
    """Random rows of uneven length, about two thirds of the tokens trained on; domains in turn."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        n = int(rng.integers(4, 24))
        mask = rng.random(n) < 0.66
        mask[0] = False
        mask[-1] = True
        made.append((rng.integers(4, VOCAB, n), mask, domains[i % len(domains)]))
    write_token_set(folder, made, digest=f"{seed:064d}", vocab_size=VOCAB)
    return folder


def engine_plan(model: Path, folder: Path, **changes: Any) -> EngineConfig:
    """A plan over 50 training and 10 held-out rows."""
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


def trial(name: str = "t000", **changes: Any) -> TrialConfig:
    defaults: dict[str, Any] = {
        "batch_size": 8,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "planned_steps": 8,
        "warmup_steps": 2,
    }
    return TrialConfig(name, **{**defaults, **changes})
