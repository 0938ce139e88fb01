"""The median rule: stop a trial whose held-out objective at a window is worse than the median there.

Simple and hard to beat on budget saved; blind to everything but one partial value (Vizier, 2017).
"""

from __future__ import annotations

import math
from typing import Any

from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.verdict import Judgement
from sweepft.rules.windows import Window

__all__ = ["MedianRule"]


class MedianRule:
    """Condemn below the median of the other trials at the same window.

    Args:
        min_peers: Other trials needed at the window before anything is condemned.
    """

    name = "median"
    rejudges = False

    def __init__(self, min_peers: int = 3) -> None:
        self.min_peers = min_peers

    def judge(self, cohort: Cohort, trial: TrialRecord, window: Window) -> Judgement:
        """Condemned when strictly worse than the median of the others; ties continue."""
        own = trial.snapshots[window].metric
        if not math.isfinite(own):
            return Judgement(False, f"no held-out objective at {window.name}: the median rule cannot judge")
        peers = cohort.peers(window, "metric", own)
        evidence: dict[str, Any] = {"objective": own, "peers": peers}
        if peers < self.min_peers:
            return Judgement(
                False,
                f"{peers} other trials at {window.name}, {self.min_peers} needed to judge",
                evidence=evidence,
            )
        median = cohort.median_of_others(window, "metric", own)
        evidence["median"] = median
        worse = own > median if cohort.mode == "min" else own < median
        word = "worse than" if worse else "no worse than"
        return Judgement(
            worse,
            f"objective {own:.4g} is {word} the median {median:.4g} of {peers} others at {window.name}",
            evidence=evidence,
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its one setting."""
        return {"min_peers": self.min_peers}
