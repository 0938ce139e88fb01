"""Pruners for Optuna. Needs ``optuna``; of sweepft it loads the early-stopping rules alone."""

from __future__ import annotations

from sweepft.early_stopping.optuna_pruner import EarlyDynamicsPruner, observe

__all__ = ["EarlyDynamicsPruner", "observe"]
