"""The paper's direction: high gradient norm and low training loss early in training rank low.

From "Unveiling the Secret Recipe" (arXiv 2412.13337), kept by name to be compared and to be doubted: on most
public curves its direction for the loss is wrong. Gradient norms shrink with the batch, E|g_B|^2 = |G|^2 +
tr(Sigma)/B, so only trials of the same batch size are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.curve import Snapshot
from sweepft.rules.verdict import Judgement
from sweepft.rules.windows import Window

__all__ = ["RecipeRule"]


class RecipeRule:
    """Condemn trials in the lower half of (low gradient norm + high loss), among equal batch sizes.

    Args:
        min_peers: Comparable trials needed at the window before anything is condemned.
        batch_key: Config key of the batch size; without it all trials are taken as comparable.
    """

    name = "recipe"
    rejudges = False

    def __init__(self, min_peers: int = 3, batch_key: str = "batch_size") -> None:
        self.min_peers = min_peers
        self.batch_key = batch_key

    def judge(self, cohort: Cohort, trial: TrialRecord, window: Window) -> Judgement:
        """Condemned when the mean of its two ranks lies below the middle."""
        own = trial.snapshots[window]
        batch = trial.covariate(self.batch_key)
        peers = [
            snap
            for name, snap in cohort.at(window).items()
            if name != trial.trial_id and cohort.trials[name].covariate(self.batch_key) == batch
        ]
        scores = {}
        for signal, direction in (("log_grad_norm", -1.0), ("loss", 1.0)):
            rank = _rank(getattr(own, signal), peers, signal, self.min_peers)
            if rank is not None:
                scores[signal] = rank if direction > 0 else 1.0 - rank
        evidence: dict[str, Any] = {"peers": len(peers), "batch_size": batch, "ranks": scores}
        if not scores:
            return Judgement(
                False,
                f"{len(peers)} comparable trials at {window.name} with loss or gradient norm,"
                f" {self.min_peers} needed to judge",
                evidence=evidence,
            )
        score = sum(scores.values()) / len(scores)
        evidence["score"] = score
        words = {"log_grad_norm": "low gradient norm", "loss": "high training loss"}
        return Judgement(
            score < 0.5,
            f"ranks {score:.2f} of 1 on {' and '.join(words[s] for s in scores)} among {len(peers)}"
            f" comparable trials at {window.name} (the paper's direction; half is needed)",
            evidence=evidence,
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its settings."""
        return {"min_peers": self.min_peers, "batch_key": self.batch_key}


def _rank(own: float, peers: Iterable[Snapshot], signal: str, min_peers: int) -> float | None:
    """Share of the peers below ``own`` (ties half), or None with too few peers or no value."""
    values: list[float] = [v for v in (getattr(p, signal) for p in peers) if math.isfinite(v)]
    if not math.isfinite(own) or len(values) < max(1, min_peers):
        return None
    return sum((v < own) + 0.5 * (v == own) for v in values) / len(values)
