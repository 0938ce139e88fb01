"""Copies of a sweep's metrics for TensorBoard, Weights & Biases and MLflow, sent by a separate process.

The process reads the ledger, so that a tracker can be late, slow or broken without affecting the sweep, and can catch
up at any time: ``python -m sweepft.trackers RUN`` sends what has not been sent.
"""

from __future__ import annotations

from sweepft.trackers.feed import TrackerFeed, failures
from sweepft.trackers.trackers import Point, Tracker, make_trackers

__all__ = ["Point", "Tracker", "TrackerFeed", "failures", "make_trackers"]
