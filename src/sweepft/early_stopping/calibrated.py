"""The calibrated rule: flags the trials that together hold only a small share of the chances of the top fraction.

A trial's early signals are blended into a score. Score and final result are modelled as a normal pair; their
correlation starts from a prior, is smaller the less objective and loss agree, and is learned from finished trials.
Where repeats of a trial's configuration have finished, the part that the signals missed of their results is expected of
it, too. That gives each trial its probability of ending in the top fraction. Trials are flagged from the least likely
upwards as long as all flagged ones together, now and earlier, hold no more than a *level* of the sum of these
probabilities: the cumulative risk.

The basis of the level decides what may be claimed:

- ``heuristic``: three to four times the ``max_false_stop_rate`` asked for (0.33 for 0.10) where as much is known of the
  trials' results as is assumed of fine-tunes (on those it was chosen on, 0.13 of the top trials were stopped), less
  where less is known, down to the rate itself. Nothing is guaranteed.
- ``prior_sweeps``: set by conformal risk control on replays of prior sweeps: a new sweep like those loses no more than
  ``max_false_stop_rate`` of its top trials on average.
- ``conformal``: in a sweep with enough top trials of its own, run in full or audited: a top trial is flagged with
  probability ``max_false_stop_rate`` at most, by its rank among them (p-values, weighted by inverse propensity).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.cohort import Cohort, FinishedTrials
from sweepft.early_stopping.decisions import RuleDecision, too_few
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.signal_model import (
    DEFAULT_WEIGHTS,
    FINISHED,
    Learner,
    SignalWeights,
    predict_residual,
)
from sweepft.early_stopping.signals import signal_table
from sweepft.early_stopping.statistics import cdf, normal_scores, quantile
from sweepft.early_stopping.trial import TrialRecord

Floats = NDArray[np.float64]

# n * variance: of a normal score known by its rank among n trials, with the edge of the top fraction; of a result.
_RANK_NOISE: Final = 3.0
_RESULT_NOISE: Final = 1.0
_SLACK: Final = 2.8  # gives level 0.33 for a rate of 0.10 where as much is known as on fine-tunes


@dataclass(frozen=True)
class Calibration:
    """A level learned from prior sweeps; made by `sweepft.replay.calibrate`, JSON-able.

    Attributes:
        level: The level that conformal risk control allows.
        max_false_stop_rate: The bound it was made for.
        sweeps: Number of prior sweeps.
        rho: Learned (rung fraction, correlation) pairs; the prior where empty.
        weights: Learned weights of `SIGNALS`; the prior where empty.
    """

    level: float
    max_false_stop_rate: float
    sweeps: int
    rho: tuple[tuple[float, float], ...] = ()
    weights: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "rho": [list(r) for r in self.rho], "weights": list(self.weights)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        rho = tuple((float(w), float(r)) for w, r in data.get("rho", ()))
        weights = tuple(float(x) for x in data.get("weights", ()))
        return cls(
            float(data["level"]), float(data["max_false_stop_rate"]), int(data["sweeps"]), rho, weights
        )


@dataclass(frozen=True)
class _Estimate:
    """What is estimated of n trials at one rung.

    Attributes:
        names: The trials.
        chances: (n,) probability of each to end in the top fraction.
        signals: (n, k) their scores in each signal.
        repeats: Number of finished trials of each one's configuration.
        lost: Sum of the chances of trials that ended early without reaching the rung.
        ranked: Number of trials compared, those among them.
        known: Share of the variance of results that is known of running trials, relative to what is assumed a priori.
        learned: What the signals are worth.
    """

    names: Sequence[str]
    chances: Floats
    signals: Floats
    repeats: Sequence[int]
    lost: float
    ranked: int
    known: float
    learned: SignalWeights

    def cumulative_risk(self, own: int) -> float:
        """Share of all chances that a trial and all less likely ones hold, those that ended early among them."""
        behind = self.chances[self.chances <= self.chances[own] + 1e-12].sum()
        return float((behind + self.lost) / (self.chances.sum() + self.lost))


class CalibratedRule:
    """Flags the least likely trials up to a cumulative risk; see the module.

    Args:
        top_fraction: The best share of the trials, which the rule must keep.
        max_false_stop_rate: Share of the top trials that may be flagged.
        min_peers: Other trials needed at a rung before any trial is flagged there.
        covariates: Hyperparameters that may explain final results; their weights start at zero.
        audit: The rate of audits: an audited trial stands for 1 / audit flagged ones.
        calibration: From prior sweeps.
        level: Overrides the heuristic level (used to calibrate).
        batch_key: Parameter that holds the batch size.
        weights: Overrides the prior weights of `SIGNALS` (used by ablations).

    Raises:
        ValueError: A share is not in (0, 1), or the calibration was made for a larger bound.
    """

    name = "calibrated"
    rejudges = True

    def __init__(
        self,
        *,
        top_fraction: float = 0.2,
        max_false_stop_rate: float = 0.10,
        min_peers: int = 3,
        covariates: Sequence[str] = (),
        audit: float = 0.0,
        calibration: Calibration | None = None,
        level: float | None = None,
        batch_key: str = "batch_size",
        weights: Sequence[float] | None = None,
    ) -> None:
        for name, value in (("top_fraction", top_fraction), ("max_false_stop_rate", max_false_stop_rate)):
            if not 0 < value < 1:
                raise ValueError(f"{name}: must lie between 0 and 1 (got {value!r})")
        if calibration is not None and calibration.max_false_stop_rate > max_false_stop_rate + 1e-9:
            raise ValueError(
                f"prior_sweeps: the calibration is for max_false_stop_rate {calibration.max_false_stop_rate}, not"
                f" {max_false_stop_rate}\n  calibrate again, or set the same bound"
            )
        self.top_fraction, self.max_false_stop_rate = top_fraction, max_false_stop_rate
        self.min_peers = max(1, min_peers)
        self.covariates, self.audit, self.batch_key = tuple(covariates), audit, batch_key
        self.calibration, self._level = calibration, level
        self._finished = FinishedTrials(None)
        self._own_level: float | None = None
        prior = calibration.weights if calibration is not None and calibration.weights else DEFAULT_WEIGHTS
        rho = calibration.rho if calibration is not None else ()
        self._learner = Learner(weights if weights is not None else prior, rho, batch_key)

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Flags a trial with a cumulative risk at or below the level in force."""
        chosen = self._most_informative(cohort, trial)
        peers = len(cohort.at(chosen)) + cohort.ended_before(chosen)[0] - 1
        if peers < self.min_peers:
            return RuleDecision(False, too_few(peers, self.min_peers, rung), evidence={"peers": peers})
        estimate = self._estimate(cohort, chosen, self._sample(cohort, chosen, trial.trial_id))
        own = estimate.names.index(trial.trial_id)
        basis, level = self._level_in_force(cohort, estimate.known)
        risk, p_top, repeats = (
            estimate.cumulative_risk(own),
            float(estimate.chances[own]),
            estimate.repeats[own],
        )
        evidence: dict[str, Any] = {
            "compared_at": chosen.name,
            "peers": estimate.ranked - 1,
            "signals": dict(
                zip(
                    estimate.learned.columns,
                    (round(x, 4) for x in estimate.signals[own].tolist()),
                    strict=True,
                )
            ),
            "repeats": repeats,
            "mass": round(risk, 6),
            "level": round(level, 6),
            "basis": basis,
            **estimate.learned.to_dict(),
        }
        if trial.snapshots[chosen].metric_step:
            evidence["objective_step"] = trial.snapshots[chosen].metric_step
        finished = f", {repeats} finished of its configuration" if repeats else ""
        reason = (
            f"P(top {100 * self.top_fraction:g}%) = {p_top:.3f} among {estimate.ranked} trials at {chosen.name}"
            f"{finished}; cumulative risk {100 * risk:.1f}% {'<=' if risk <= level else '>'} "
            f"limit {100 * level:.1f}% ({basis})"
        )
        return RuleDecision(risk <= level, reason, p_top, evidence, score=risk)

    def chances(self, cohort: Cohort, trials: Sequence[TrialRecord]) -> dict[str, float]:
        """Probability of each of these trials, all of which have been at a rung, to end in the top fraction."""
        at = {t.trial_id: self._most_informative(cohort, t) for t in trials}
        by_rung = {}
        for rung in set(at.values()):
            names = cohort.names_at(rung)
            by_rung[rung] = dict(
                zip(names, self._estimate(cohort, rung, names).chances.tolist(), strict=True)
            )
        return {name: by_rung[rung][name] for name, rung in at.items()}

    def _most_informative(self, cohort: Cohort, trial: TrialRecord) -> Rung:
        return min(trial.snapshots, key=lambda w: self._uncertainty(cohort, w))

    def _uncertainty(self, cohort: Cohort, rung: Rung) -> float:
        """Prior variance of the final result given the rank at this rung: late rungs and many peers win."""
        rho = self._learner.prior_rho(rung)
        n = len(cohort.at(rung)) + cohort.ended_before(rung)[0]
        return 1.0 - rho * rho + rho * rho * _RANK_NOISE / n

    def _estimate(self, cohort: Cohort, rung: Rung, names: Sequence[str]) -> _Estimate:
        """The estimate for these trials, all of which have been at the rung."""
        table = signal_table(cohort, rung, names, self.covariates, self.batch_key)
        learned = self._learner.learn(cohort, rung, table)
        count, spent = cohort.ended_before(rung)
        scale = len(names) / len(cohort.at(rung))
        blended = np.concatenate([table.scores @ learned.weights, np.full(round(count * scale), -1e6)])
        scores = normal_scores(blended)
        rho, ranked = learned.rho, len(scores)
        mean, variance, repeats = _results(cohort, names, scores[: len(names)], rho)
        spread = np.sqrt(variance + rho * rho * _RANK_NOISE / ranked)
        chances = 1.0 - cdf((quantile(1.0 - self.top_fraction) - mean) / spread)
        running = [i for i, n in enumerate(names) if n not in cohort.finals]
        known = 1.0
        if running:
            known = float(1.0 - variance[running].mean()) / self._learner.prior_rho(rung) ** 2
        return _Estimate(
            names, chances, table.scores, repeats, spent * scale, ranked, min(1.0, max(0.0, known)), learned
        )

    def _sample(self, cohort: Cohort, rung: Rung, own: str) -> list[str]:
        picked = cohort.sample_at(rung)
        return picked if own in picked else [*picked, own]

    def _level_in_force(self, cohort: Cohort, known: float = 1.0) -> tuple[str, float]:
        if self._level is not None:
            return "given", self._level
        if self._finished.of is not cohort or self._finished.seen > len(cohort.finals):
            self._finished = FinishedTrials(cohort)
        if self._finished.update(self.audit):
            self._own_level = self._conformal_level(self._finished)
        own = self._own_level
        if own is not None:
            return "conformal", own
        if self.calibration is not None:
            return "prior_sweeps", self.calibration.level
        return "heuristic", 1.0 - (1.0 - self.max_false_stop_rate) ** (1.0 + _SLACK * known)

    def _conformal_level(self, finished: FinishedTrials) -> float | None:
        """The largest level at which a top trial is flagged with probability ``max_false_stop_rate`` at most.

        Needs audits: without them flagged top trials are never seen, and the others are a biased sample. None while
        there are too few top trials for a bound at this rate.
        """
        if self.audit <= 0:
            return None
        finals, scores, weights = map(np.array, (finished.finals, finished.scores, finished.weights))
        counts = np.isfinite(scores) & (weights > 0)
        finals, scores, weights = finals[counts], scores[counts], weights[counts]
        if len(finals) * self.top_fraction < 1.0 / self.max_false_stop_rate - 1.0:
            return None
        order = np.argsort(-finals)
        top = order[np.cumsum(weights[order]) <= self.top_fraction * weights.sum() + 1e-9]
        if weights[top].sum() + 1.0 < 1.0 / self.max_false_stop_rate:
            return None
        ranked = top[np.argsort(scores[top])]
        heaviest = weights[ranked].max()
        p_values = (np.cumsum(weights[ranked]) + heaviest) / (weights[top].sum() + heaviest)
        allowed = np.nonzero(p_values <= self.max_false_stop_rate)[0]
        if len(allowed):
            return float(scores[ranked[allowed[-1]]])
        return float(np.nextafter(scores[ranked[0]], -math.inf))  # below every top trial seen

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """The level (a heuristic one: the largest), its basis, and what was learned and is in force at each rung."""
        basis, level = self._level_in_force(cohort)
        learned = {}
        for rung in cohort.rungs():
            names = self._sample(cohort, rung, cohort.names_at(rung)[0])
            estimate = self._estimate(cohort, rung, names)
            level_there = self._level_in_force(cohort, estimate.known)[1]
            learned[rung.name] = estimate.learned.to_dict() | {"level": level_there}
        return {
            "top_fraction": self.top_fraction,
            "max_false_stop_rate": self.max_false_stop_rate,
            "basis": basis,
            "level": level,
            "certified": basis in ("conformal", "prior_sweeps"),
            "prior_sweeps": self.calibration.sweeps if self.calibration else 0,
            "learned": learned,
        }


def _results(
    cohort: Cohort, names: Sequence[str], scores: Floats, rho: float
) -> tuple[Floats, Floats, Sequence[int]]:
    """Mean and variance of each trial's result, as a normal score, and how many of its configuration have finished.

    Trials that ended early count as worse than finished ones.
    """
    rest = 1.0 - rho * rho
    finals = cohort.finals
    kinds = [cohort.trials[n].configuration for n in names]
    done = [i for i, n in enumerate(names) if n in finals][-FINISHED:]
    counts = Counter(kinds[i] for i in done)
    counts.pop(None, None)
    repeats = [counts[k] for k in kinds]
    finished = set(done)
    if len(set(kinds)) < 2 or not any(count > (i in finished) for i, count in enumerate(repeats)):
        return rho * scores, np.full(len(names), rest), repeats
    values = [cohort.sign * finals[names[i]] for i in done]
    stopped = round(cohort.ended_early * len(done) / len(finals))
    ranks = normal_scores(values + [min(values) - 1.0] * stopped)
    missed = (ranks[: len(done)] - rho * scores[done]) / math.sqrt(rest)
    noise = np.full(len(done), _RESULT_NOISE / len(ranks) / rest)
    mean, variance = predict_residual(kinds, done, missed, noise)
    return rho * scores + math.sqrt(rest) * mean, rest * variance, repeats
