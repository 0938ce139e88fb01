"""The configurations of the study: a balanced fraction of the full grid.

Every cell of learning rate x batch size gets four runs: one configuration with both seeds, which shows the noise, and
two more with the other schedules and the other warmup. Each hyperparameter is thus balanced against all others
(correlations between the design's columns are below 0.03) at a third of the full grid's cost.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

__all__ = ["EDITIONS", "Edition", "configurations", "spec"]
SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class Edition:
    """One size of the study.

    Attributes:
        rates: Learning rates, ascending.
        batches: Batch sizes in samples, ascending by factors of two. At the fraction ``b / batches[-1]`` of the budget,
            batch size ``b`` has done as many steps as the largest one at its end.
        samples: Budget of every run.
        warmup: Fraction of the steps, for the runs with warmup.
        train: Further fields of the spec's train section.
        data: Further fields of the spec's data section.
        resources: The spec's resources.
    """

    rates: tuple[float, ...]
    batches: tuple[int, ...]
    samples: int
    warmup: float
    train: dict[str, Any]
    data: dict[str, Any]
    resources: dict[str, Any]


EDITIONS = {
    "cpu": Edition(
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        batches=(2, 4, 8, 16, 32),
        samples=1280,  # 40 steps of the largest batch
        warmup=0.1,
        train={"micro_batch": {"tokens": 2048}, "precision": "fp32", "zero_stage": 2},
        data={"max_length": 160, "max_lost": 0.9},  # short rows only, so that a study is quick
        resources={"workers_per_trial": 1, "gpus_per_worker": 0, "concurrent_trials": 2},
    ),
    "gpu": Edition(
        rates=(3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        batches=(8, 16, 32, 64, 128),
        samples=5120,
        warmup=0.1,
        train={"micro_batch": {"tokens": 16384}, "precision": "bf16", "zero_stage": 2},
        data={"max_length": 512},
        # A model this small does not keep a GPU busy: four trials share one.
        resources={"workers_per_trial": 1, "gpus_per_worker": 0.25, "concurrent_trials": 4},
    ),
}
"""Editions by name; `gpu` is for models of 30M-1B parameters, which have lower best rates."""


def configurations(edition: Edition) -> list[dict[str, Any]]:
    """The runs in a fixed random order, so that an incomplete study is close to balanced too."""
    rows = []
    for (i, rate), (j, batch) in itertools.product(enumerate(edition.rates), enumerate(edition.batches)):
        schedule, warm = (i + j) % 3, (i + j) % 2
        four = [
            (schedule, warm, 0),
            (schedule, warm, 1),
            ((schedule + 1) % 3, 1 - warm, i % 2),
            ((schedule + 2) % 3, 1 - warm, (i + 1) % 2),
        ]
        rows += [
            {
                "learning_rate": rate,
                "batch_size": batch,
                "schedule": SCHEDULES[s],
                "warmup": edition.warmup * w,
                "seed": seed,
            }
            for s, w, seed in four
        ]
    random.Random(0).shuffle(rows)
    return rows


def spec(edition: Edition, model: str, in_domain: str, retention: str, name: str = "study") -> dict[str, Any]:
    """The spec of the sweep, for `sweepft run`.

    Args:
        edition: Size of the study.
        model: Base model, a folder or hub id.
        in_domain: Training rows; 3% of them are the validation set of the objective.
        retention: Rows of what the base model knew: measured, but not part of the objective.
        name: Name of the sweep, and of the study in the table.
    """
    runs = configurations(edition)
    return {
        "name": name,
        "model": {"path": model},
        "data": {
            "train": [{"path": in_domain}],
            "validation": [
                {"name": "in_domain", "fraction": 0.03, "weight": 1.0},
                {"name": "retention", "path": retention, "limit": 150, "weight": 0.0},
            ],
            "overlap": "drop",
            **edition.data,
        },
        "train": {
            "budget": {"samples": edition.samples},
            "gradient_clipping": 1.0,
            "optimizer": {"name": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.0},
            **edition.train,
        },
        "search": {
            "trials": len(runs),
            "sampler": "random",
            "start_with": runs,
            "space": {
                "learning_rate": {"choice": list(edition.rates)},
                "batch_size": {"choice": list(edition.batches)},
                "schedule": {"choice": list(SCHEDULES)},
                "warmup": {"choice": [0.0, edition.warmup]},
                "seed": {"choice": [0, 1]},
            },
        },
        "early_stop": {
            "rule": "none",
            # where each batch size has done as many steps as the largest one at its end
            "rungs": [edition.batches[0] / b for b in reversed(edition.batches[1:])],
            "min_steps": 1,
        },
        "keep": {"top": 1},
        "resources": edition.resources,
    }
