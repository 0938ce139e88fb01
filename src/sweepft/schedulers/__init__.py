"""Schedulers for Ray Tune. Needs ``ray[tune]`` only; no other part of sweepft is loaded but the rules."""

from __future__ import annotations

from sweepft.rules import Verdict
from sweepft.schedulers.early_dynamics import EarlyDynamicsScheduler

__all__ = ["EarlyDynamicsScheduler", "Verdict"]
