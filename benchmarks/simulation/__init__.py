"""Sweeps without training: real searcher, scheduler, ledger and report, with synthetic or recorded learning curves.

They measure what real trials are too expensive for: the driver's cost per trial in a sweep of ten thousand trials, and
which search strategy finds the best model for the same GPU-hours. The ledger and every report are marked as simulated.
"""

from __future__ import annotations

from benchmarks.simulation.compare import SYSTEMS, SystemRow, compare_systems
from benchmarks.simulation.courses import make_courses
from benchmarks.simulation.run import Mark, Simulated, simulate

__all__ = ["SYSTEMS", "Mark", "Simulated", "SystemRow", "compare_systems", "make_courses", "simulate"]
