"""sweepft's early-stop rules as an Optuna pruner. Needs optuna, and no other part of sweepft but the rules."""

from __future__ import annotations

from sweepft.early_stopping.optuna_pruner import EarlyDynamicsPruner, observe

__all__ = ["EarlyDynamicsPruner", "observe"]
