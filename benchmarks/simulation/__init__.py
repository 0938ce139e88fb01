"""Sweeps without training: the real searcher, scheduler, ledger and report; only the trials are made up or played back.

For two questions that no test on real trials can afford: what does the driver cost a trial when there are ten thousand
of them, and which whole system finds the best model for the same GPU-hours? The ledger says that it is simulated,
and so does every report made from it.
"""

from __future__ import annotations

from benchmarks.simulation.compare import SYSTEMS, SystemRow, compare_systems
from benchmarks.simulation.courses import make_courses
from benchmarks.simulation.run import Mark, Simulated, simulate

__all__ = ["SYSTEMS", "Mark", "Simulated", "SystemRow", "compare_systems", "make_courses", "simulate"]
