"""Scores of a model in memory: benchmarks by the lm-evaluation-harness, and MT-Bench (``mt_bench``).

The harness sees a plain transformers model, and a slot's ranks as its data-parallel processes. Loading the weights and
storing the scores is up to the caller.
"""

from __future__ import annotations

from sweepft.evaluation.own_metric import OwnTask
from sweepft.evaluation.tasks import EvalTask

__all__ = ["EvalTask", "OwnTask"]
