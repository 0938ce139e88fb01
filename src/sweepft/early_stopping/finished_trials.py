"""Completed trials as columns, taken in as they end.

One idea: an end does not change, so that what rests on all ends need not go through all trials at every verdict.
"""

from __future__ import annotations

import itertools
import math
from array import array

from sweepft.early_stopping.audit import audit_weight
from sweepft.early_stopping.cohort import Cohort


class FinishedTrials:
    """The completed trials of a sweep with an objective, in order of their ends.

    Args:
        of: The sweep; None for one that is not known yet.

    Attributes:
        of: The sweep.
        seen: Completed trials taken in.
        finals: Their objectives, larger is better.
        scores: The lowest score each was given; NaN for one that was never judged.
        weights: How many trials each stands for.
        audited: Positions of the audited ones.
    """

    def __init__(self, of: Cohort | None) -> None:
        self.of, self.seen = of, -1
        self.finals, self.scores, self.weights = array("d"), array("d"), array("d")
        self.audited: list[int] = []

    def take(self, audit: float) -> bool:
        """Take in what has ended since; whether anything has (the first time: yes).

        Args:
            audit: The rate of audits, for the weights.
        """
        assert self.of is not None
        if self.seen == len(self.of.finals):
            return False
        for name in itertools.islice(self.of.finals, max(0, self.seen), None):
            trial = self.of.trials[name]
            if trial.audited:
                self.audited.append(len(self.finals))
            self.finals.append(self.of.sign * self.of.finals[name])
            self.scores.append(math.nan if trial.lowest_score is None else trial.lowest_score)
            self.weights.append(audit_weight(trial.fate, audit))
        self.seen = len(self.of.finals)
        return True
