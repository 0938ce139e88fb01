"""Asynchronous successive halving: at each window only the best 1/eta of those seen there go on.

By name, for comparison (Li et al., 2018; stopping variant, as in Ray Tune). Windows are its rungs.
"""

from __future__ import annotations

import math
from typing import Any

from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.verdict import Judgement
from sweepft.rules.windows import Window

__all__ = ["AshaRule"]


class AshaRule:
    """Condemn what is not among the best 1/eta objectives at the window so far.

    Args:
        eta: Reduction factor.
    """

    name = "asha"
    rejudges = False

    def __init__(self, eta: float = 3.0) -> None:
        self.eta = eta

    def judge(self, cohort: Cohort, trial: TrialRecord, window: Window) -> Judgement:
        """The first trial at a rung always goes on."""
        own = trial.snapshots[window].metric
        others = cohort.peers(window, "metric", own)
        if not math.isfinite(own) or others < 1:
            return Judgement(
                False, f"no objective or no other trial at {window.name}", evidence={"peers": others}
            )
        below = cohort.share_below(window, "metric", own)
        beaten = 1.0 - below if cohort.mode == "min" else below
        return Judgement(
            beaten < 1.0 - 1.0 / self.eta,
            f"objective {own:.4g} beats {100 * beaten:.0f}% of {others} others at {window.name},"
            f" {100 * (1 - 1 / self.eta):.0f}% are needed",
            evidence={"objective": own, "peers": others, "beats": beaten, "eta": self.eta},
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its one setting."""
        return {"eta": self.eta}
