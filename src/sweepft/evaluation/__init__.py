"""What finalists are scored on: benchmarks by the lm-evaluation-harness, and judged answers (``judge``).

One idea: the harness sees a plain transformers model and a slot's ranks as its data-parallel ones; how the weights got
there, and where the scores go, is nobody's business here. Knows nothing of the engine.
"""

from __future__ import annotations

from sweepft.evaluation.tasks import EvalTask

__all__ = ["EvalTask"]
