"""Estimate the steps, memory, disk space and GPU-hours of a sweep before it runs, with warnings.

The spec, config.json and the rows are read where they are available. Everything else is an assumption, which the plan
lists with the flag that changes it.
"""

from __future__ import annotations

from sweepft.plan.cluster import Cluster
from sweepft.plan.estimate import Flags, SweepPlan, make_plan
from sweepft.plan.show import show_plan

__all__ = ["Cluster", "Flags", "SweepPlan", "make_plan", "show_plan"]
