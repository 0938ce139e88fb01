"""What a sweep will take, before it is run: steps, memory, disk, time, and what is likely to disappoint.

One idea: every figure says what it rests on. What can be read (the spec, config.json, the rows) is read, what was
measured is named, and the rest is an assumption that is listed and can be set by a flag.
"""

from __future__ import annotations

from sweepft.plan.cluster import Cluster
from sweepft.plan.estimate import Flags, SweepPlan, make_plan
from sweepft.plan.show import show_plan

__all__ = ["Cluster", "Flags", "SweepPlan", "make_plan", "show_plan"]
