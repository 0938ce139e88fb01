"""MT-Bench by a judge behind any OpenAI-compatible endpoint: ``score(generate, settings, cache_dir)``.

Stands alone: needs neither torch nor Ray nor an HTTP package, and knows of the model only that it answers chats.
"""

from __future__ import annotations

from sweepft.evaluation.mt_bench.score import (
    Chat,
    Generate,
    Judgement,
    MtBenchResult,
    Score,
    check,
    score,
    setting,
)

__all__ = ["Chat", "Generate", "Judgement", "MtBenchResult", "Score", "check", "score", "setting"]
