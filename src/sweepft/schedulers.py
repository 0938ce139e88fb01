"""Schedulers for Ray Tune. Needs ``ray[tune]`` only; no other part of sweepft is loaded but the rules."""

from __future__ import annotations

from sweepft.early_stopping import StopDecision
from sweepft.early_stopping.ray_scheduler import EarlyDynamicsScheduler

__all__ = ["EarlyDynamicsScheduler", "StopDecision"]
