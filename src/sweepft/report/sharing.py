"""What trials on one GPU did to each other's speed, seen in the sweep itself.

One idea: a trial is compared with itself. Its neighbours come and go, so most trials train for a while alone and for a
while beside others; how much of its own speed it keeps, times the trials on the GPU, is what sharing won.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sweepft.recorder import RunView, TrialView

__all__ = ["sharing_summary"]

_ALONE, _FULL = 0.05, 0.1
_FEWEST_STEPS = 3


@dataclass(frozen=True)
class _Stretch:
    """Steps between two results: when they ran (Unix seconds), how many, and their target tokens."""

    begin: float
    end: float
    steps: int
    tokens: float


def sharing_summary(view: RunView) -> dict[str, Any] | None:
    """Speed of trials that shared GPUs; None where each had GPUs of its own, or none.

    Returns:
        ``trials_per_gpu``; ``kept``: share of its speed alone that a trial kept beside a full GPU of others, the median
        over ``trials``; ``gain``: ``trials_per_gpu`` times that, None (as ``kept``) where no trial was seen both ways,
        or where slots were spread over several GPUs and who shared with whom is not known; ``text``: a sentence.
    """
    resources = view.spec.get("resources") or {}
    each, slots = float(resources.get("gpus_per_worker") or 0), int(resources.get("concurrent_trials") or 1)
    if not 0 < each < 1:
        return None
    most = min(int(1 / each + 1e-9), slots)
    kept = _kept(view, most) if each * slots <= 1 + 1e-9 and most > 1 else []
    share = float(np.median(kept)) if kept else None
    found = {
        "trials_per_gpu": most,
        "kept": share,
        "gain": None if share is None else most * share,
        "trials": len(kept),
    }
    return found | {"text": _text(found)}


def _kept(view: RunView, most: int) -> list[float]:
    stretches = {name: _stretches(trial) for name, trial in view.trials.items()}
    found = []
    for name, mine in stretches.items():
        others = [s for other, theirs in stretches.items() if other != name for s in theirs]
        beside = [(s, _at_work(s, others)) for s in mine]
        alone = _speed([s for s, n in beside if n < _ALONE])
        shared = _speed([s for s, n in beside if n > most - 1 - _FULL])
        if alone and shared:
            found.append(shared / alone)
    return found


def _text(found: dict[str, Any]) -> str:
    told = f"{found['trials_per_gpu']} trials a GPU"
    if found["gain"] is None:
        return f"{told}; what that won was not seen in this sweep (benchmarks/shared_gpu.py measures it)"
    return (
        f"{told}; beside others a trial kept {found['kept']:.0%} of its speed alone (median of {found['trials']}), "
        f"so the GPU did {found['gain']:.2f} times the work"
    )


def _stretches(trial: TrialView) -> list[_Stretch]:
    history, evaluated = trial.history, {e["step"]: float(e.get("seconds") or 0) for e in trial.evals}
    found, first = [], 0
    for time, step in trial.told:
        last = int(np.searchsorted(history["step"], step, side="right"))
        seconds = float(np.nansum(history["seconds"][first:last]))
        if last > first and seconds > 0:
            before = history["tokens_seen"][first - 1] if first else 0.0
            end = time - evaluated.get(step, 0.0)
            tokens = float(history["tokens_seen"][last - 1] - before)
            found.append(_Stretch(end - seconds, end, last - first, tokens))
        first = last
    return found


def _at_work(mine: _Stretch, others: list[_Stretch]) -> float:
    """Other trials at work at the same time, on average."""
    overlap = sum(max(0.0, min(mine.end, o.end) - max(mine.begin, o.begin)) for o in others)
    return overlap / (mine.end - mine.begin)


def _speed(stretches: list[_Stretch]) -> float | None:
    """Target tokens a second; None of too few steps."""
    if sum(s.steps for s in stretches) < _FEWEST_STEPS:
        return None
    return sum(s.tokens for s in stretches) / sum(s.end - s.begin for s in stretches)
