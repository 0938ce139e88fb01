"""The level of the calibrated rule: the risk up to which trials are flagged.

Its basis decides what may be claimed:

- ``heuristic``: the rate itself. In replays about that share of the top trials is lost or less, also where signals say
  nothing; nothing is guaranteed.
- ``prior_sweeps``: set by conformal risk control on replays of prior sweeps: a new sweep like those loses no more than
  ``max_false_stop_rate`` of its top trials on average.
- ``conformal``: in a sweep with enough top trials of its own, run in full or audited: a top trial is flagged with
  probability ``max_false_stop_rate`` at most, by its rank among them (p-values, weighted by inverse propensity).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweepft.early_stopping.cohort import Cohort, FinishedTrials


@dataclass(frozen=True)
class Calibration:
    """A level learned from prior sweeps; made by `sweepft.replay.calibrate`, JSON-able.

    Attributes:
        level: The level that conformal risk control allows.
        max_false_stop_rate: The bound it was made for.
        sweeps: Number of prior sweeps.
    """

    level: float
    max_false_stop_rate: float
    sweeps: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        return cls(float(data["level"]), float(data["max_false_stop_rate"]), int(data["sweeps"]))


class Level:
    """The level in force in a sweep, and its basis.

    Args:
        top_fraction: The best share of the trials.
        max_false_stop_rate: Share of the top trials that may be flagged.
        audit: The rate of audits.
        calibration: From prior sweeps.
        given: Overrides the level.
    """

    def __init__(
        self,
        *,
        top_fraction: float,
        max_false_stop_rate: float,
        audit: float,
        calibration: Calibration | None,
        given: float | None,
    ) -> None:
        self._top_fraction, self._max_false_stop_rate, self._audit = top_fraction, max_false_stop_rate, audit
        self._calibration, self._given = calibration, given
        self._finished = FinishedTrials(None)
        self._own: float | None = None

    def in_force(self, cohort: Cohort) -> tuple[str, float]:
        """Basis and level."""
        if self._given is not None:
            return "given", self._given
        if self._finished.of is not cohort or self._finished.seen > len(cohort.finals):
            self._finished = FinishedTrials(cohort)
        if self._finished.update(self._audit):
            self._own = self._conformal(self._finished)
        own, calibration = self._own, self._calibration
        if (
            own is not None
        ):  # it may only lower the level: later trials need not be like those it was found on
            return "conformal", min(own, calibration.level if calibration else self._max_false_stop_rate)
        if calibration is not None:
            return "prior_sweeps", calibration.level
        return "heuristic", self._max_false_stop_rate

    def _conformal(self, finished: FinishedTrials) -> float | None:
        """The largest level at which a top trial is flagged with probability ``max_false_stop_rate`` at most.

        Needs audits: without them flagged top trials are never seen, and the others are a biased sample. None while
        there are too few top trials for a bound at this rate.
        """
        if self._audit <= 0:
            return None
        finals, scores, weights = map(np.array, (finished.finals, finished.scores, finished.weights))
        counts = np.isfinite(scores) & (weights > 0)
        finals, scores, weights = finals[counts], scores[counts], weights[counts]
        if len(finals) * self._top_fraction < 1.0 / self._max_false_stop_rate - 1.0:
            return None
        order = np.argsort(-finals)
        top = order[np.cumsum(weights[order]) <= self._top_fraction * weights.sum() + 1e-9]
        if weights[top].sum() + 1.0 < 1.0 / self._max_false_stop_rate:
            return None
        ranked = top[np.argsort(scores[top])]
        heaviest = weights[ranked].max()
        p_values = (np.cumsum(weights[ranked]) + heaviest) / (weights[top].sum() + heaviest)
        allowed = np.nonzero(p_values <= self._max_false_stop_rate)[0]
        if len(allowed):
            return float(scores[ranked[allowed[-1]]])
        return float(np.nextafter(scores[ranked[0]], -math.inf))  # below every top trial seen
