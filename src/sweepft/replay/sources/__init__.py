"""Reads recorded runs from wherever people keep them."""

from sweepft.replay.sources.frame import Logs, frame_to_studies
from sweepft.replay.sources.kinds import read_source
from sweepft.replay.sources.run_folder import live_decisions, state_to_curves
from sweepft.replay.sources.tensorboard import Scalar, read_scalars

__all__ = [
    "Logs",
    "Scalar",
    "frame_to_studies",
    "live_decisions",
    "read_scalars",
    "read_source",
    "state_to_curves",
]
