"""MT-Bench by a judge behind any OpenAI-compatible endpoint: ``score(generate, settings, cache_dir)``.

Needs neither torch nor Ray; the model under test is any callable that answers chats.
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
