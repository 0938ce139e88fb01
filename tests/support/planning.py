"""Specs and model shapes for tests of plans."""

from __future__ import annotations

from typing import Any

from support.specs import spec
from sweepft.plan.model_shape import ModelShape, typical_shape
from sweepft.spec import SweepSpec


def spec_to_plan(**sections: Any) -> SweepSpec:
    """A spec on eight GPUs without warnings; ``sections`` change keys of its sections."""
    space = {"batch_size": {"choice": [128, 512]}, "learning_rate": {"log_uniform": [1e-5, 1e-4]}}
    defaults: dict[str, Any] = {
        "model": {"path": "org/model-3b"},
        "data": {"validation": [{"name": "own", "fraction": 0.01, "limit": 1000}], "max_length": 1024},
        "train": {"budget": {"samples": 51_200}, "micro_batch": 4},
        "search": {"trials": 32, "space": space},
        "resources": {"workers_per_trial": 4, "gpus_per_worker": 1, "concurrent_trials": 2},
    }
    for name, changes in sections.items():
        defaults[name] = defaults.get(name, {}) | changes if isinstance(changes, dict) else changes
    return spec(**defaults)


def shape_3b() -> ModelShape:
    return typical_shape(3_000_000_000, "a test")
