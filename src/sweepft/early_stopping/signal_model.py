"""What the early signals of a sweep are worth: weights and a correlation with the final result.

They start from a prior (of fine-tunes, or learned from prior sweeps), corrected by the signals' reliability. Trials at
later rungs teach a little; finished trials move weights and correlation, whatever their sign. Where trials repeat a
configuration with another seed, finished ones also tell how far its signals are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.curve import Snapshot
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.signals import (
    SIGNALS,
    Agreement,
    SignalTable,
    rank_stability,
    relative_reliability,
)
from sweepft.early_stopping.statistics import fit_weights, rank_correlation

Floats = NDArray[np.float64]
DEFAULT_WEIGHTS: Final = (0.7, 1.0, 0.0)  # objective, loss, gradient norm: the norm has to earn its weight
FINISHED: Final = 48  # finished trials learned from: the latest
_RHO: Final = ((0.02, 0.40), (0.05, 0.60), (0.10, 0.80), (0.25, 0.88), (0.50, 0.94), (0.75, 0.97))
_PRIOR_WORTH: Final = (
    4.0  # of the prior correlation, in finished trials; four times as much when it was learned
)
_PROXY: Final = 0.5  # of a trial at a later rung, in finished trials
_SHARED: Final = np.array([[0.3], [0.6], [0.9]])  # of the variance, by configuration; equally likely a priori


@dataclass(frozen=True)
class SignalWeights:
    """What signals are worth at a rung.

    Attributes:
        columns: Signals, then covariates.
        weights: (k,) of the columns' normal scores.
        rho: Correlation of the blended score with the final result.
        agreement: Of objective and loss, see `Agreement`; 1 where it is not used.
        finished: Trials learned from.
    """

    columns: tuple[str, ...]
    weights: Floats
    rho: float
    agreement: float
    finished: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "weights": {c: round(float(w), 4) for c, w in zip(self.columns, self.weights, strict=True)},
            "correlation": round(self.rho, 4),
            "agreement": round(self.agreement, 4),
            "finished": self.finished,
        }


class Learner:
    """Learns weights and correlation in a sweep.

    Args:
        weights: Prior weights of `SIGNALS`.
        rho: (rung fraction, correlation) pairs learned from prior sweeps. Empty for the prior of fine-tunes; only that
            is corrected by the agreement of objective and loss.
        batch_key: Parameter that holds the batch size.
    """

    def __init__(
        self, weights: Sequence[float], rho: Sequence[tuple[float, float]] = (), batch_key: str = "batch_size"
    ) -> None:
        self._prior = np.array(weights, dtype=float)
        self._learned_before, self._rho = bool(rho), tuple(rho) or _RHO
        self._batch_key = batch_key
        self._agreement: Agreement | None = None

    def prior_rho(self, rung: Rung) -> float:
        """The correlation to start from."""
        xs, ys = zip(*self._rho, strict=True)
        return float(np.interp(rung.fraction if rung.fraction is not None else 0.1, xs, ys))

    def learn(self, cohort: Cohort, rung: Rung, table: SignalTable) -> SignalWeights:
        """What is known by now at a rung; ``table`` holds the signals of trials there."""
        names, scores = table.names, table.scores
        prior = np.zeros(len(table.columns))
        stability = rank_stability(cohort, rung, names, scores, self._batch_key)
        prior[: len(SIGNALS)] = 2.0 * self._prior * relative_reliability(stability)
        agreement = 1.0 if self._learned_before else self._agreed(cohort, rung, stability)
        prior[SIGNALS.index("loss")] *= agreement * abs(agreement)
        rho = abs(agreement) * self.prior_rho(rung)
        finals = cohort.finals
        done = [i for i, n in enumerate(names) if n in finals][-FINISHED:]
        evidence = [(4 * _PRIOR_WORTH if self._learned_before else _PRIOR_WORTH, rho)]
        weights = prior
        both, later = _later_objectives(cohort, rung, names)
        if both:
            evidence.append((_PROXY * len(both), rank_correlation(scores[both] @ prior, later)))
            weights = fit_weights(scores[both], later, prior, strength=2.0)
        if len(done) >= 3:
            ends = np.array([cohort.sign * finals[names[i]] for i in done])
            weights = fit_weights(scores[done], ends, weights, strength=8.0)
            evidence.append((len(done), rank_correlation(scores[done] @ weights, ends)))
        rho = sum(n * r for n, r in evidence) / sum(n for n, _ in evidence)
        return SignalWeights(table.columns, weights, min(0.98, max(0.02, rho)), agreement, len(done))

    def _agreed(self, cohort: Cohort, rung: Rung, stability: Floats) -> float:
        if self._agreement is None or self._agreement.of is not cohort:
            self._agreement = Agreement(cohort, self._batch_key)
        return self._agreement.up_to(rung, stability)


def _later_objectives(cohort: Cohort, rung: Rung, names: Sequence[str]) -> tuple[list[int], Floats]:
    """Positions of trials at the latest rung that 4 or more have reached, and their mean objectives (larger is better)
    since this rung.

    They are known before any trial ends, and already show whether an order holds and which signals predict it.
    """
    ahead = [w for w in cohort.rungs() if w.kind == rung.kind and w.value > rung.value]
    for after in sorted(ahead, key=lambda w: -w.value):
        here, there = cohort.at(rung), cohort.at(after)
        both = [i for i, n in enumerate(names) if n in there and _gained(here[n], there[n]) > 0]
        if len(both) >= 4:
            both = both[-FINISHED:]
            return both, np.array([cohort.sign * _since(here[names[i]], there[names[i]]) for i in both])
    return [], np.empty(0)


def _gained(before: Snapshot, after: Snapshot) -> float:
    """Weight of the objectives reported between two snapshots."""
    return after.metric_weight - before.metric_weight


def _since(before: Snapshot, after: Snapshot) -> float:
    """Mean of the objectives reported between two snapshots."""
    earlier = before.mean_metric * before.metric_weight if before.metric_weight > 0 else 0.0
    return (after.mean_metric * after.metric_weight - earlier) / _gained(before, after)


def predict_residual(
    configurations: Sequence[str | None], done: Sequence[int], missed: Floats, noise: Floats
) -> tuple[Floats, Floats]:
    """The part of each trial's result that its signals are expected to miss, from finished trials of its configuration.

    A random-effects model: a configuration shares a part of the residual variance, averaged over three such shares.

    Args:
        configurations: n digests, see `sweepft.early_stopping.trial.configuration`.
        done: Positions of the m finished trials.
        missed: (m,) their residuals, in standard deviations.
        noise: (m,) variances of these.

    Returns:
        (n,) means and (n,) variances: 0 and 1 where nothing is known.
    """
    codes: dict[str | int, int] = {}
    group = np.array(
        [codes.setdefault(i if c is None else c, len(codes)) for i, c in enumerate(configurations)]
    )
    own = group[list(done)]
    apart = (1.0 - _SHARED) + noise  # (3, m): variance of a finding around its configuration's part
    count = len(codes)
    weight = np.stack([np.bincount(own, w, count) for w in 1.0 / apart])  # (3, groups)
    total = np.stack([np.bincount(own, w, count) for w in missed / apart])
    spread = 1.0 + _SHARED * weight
    part, unsure = _SHARED * total / spread, _SHARED / spread
    fit = (missed**2 / apart).sum(axis=1) - (total * part).sum(axis=1)
    fit += np.log(apart).sum(axis=1) + np.log(spread).sum(axis=1)
    belief = np.exp(-0.5 * (fit - fit.min()))[:, None]
    belief /= belief.sum()
    mean, variance = part[:, group], 1.0 - _SHARED + unsure[:, group]
    mean_all: Floats = (belief * mean).sum(axis=0)
    variance_all: Floats = (belief * (variance + mean**2)).sum(axis=0) - mean_all**2
    return mean_all, variance_all
