"""sweepft's early-stop rules as an Optuna pruner. Needs optuna, and no other part of sweepft but the rules."""

from __future__ import annotations

from sweepft.pruners.early_dynamics import EarlyDynamicsPruner, observe

__all__ = ["EarlyDynamicsPruner", "observe"]
