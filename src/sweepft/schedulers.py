"""Schedulers for Ray Tune. Needs ``ray[tune]``; of sweepft it loads the early-stopping rules alone."""

from __future__ import annotations

from sweepft.early_stopping import StopDecision
from sweepft.early_stopping.ray_scheduler import EarlyDynamicsScheduler

__all__ = ["EarlyDynamicsScheduler", "StopDecision"]
