"""The calibrated rule: flags trials whose chance to end in the top fraction is small beside that of any trial.

A trial's objective and training loss, each by its rank, make one score. How well it tells the final result is learned
in the sweep (see `sweepft.early_stopping.evidence`): from trials that have finished, from the persistence of ranks from
rung to rung, and from the agreement of loss and objective. That gives each trial a probability of ending in the top
fraction. A trial is flagged when that is at most a share of the base rate, the probability of any trial: half at a
``max_false_stop_rate`` of 5%, two thirds at 10%, four fifths at 20%. Before two trials have finished, none is flagged.
Where signals say nothing, all trials are equally likely, and none is flagged; the more evidence, the more are. What may
be claimed depends on the level's basis (see `sweepft.early_stopping.level`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.decisions import RuleDecision, too_few
from sweepft.early_stopping.evidence import (
    CONFIRMED,
    FINISHED,
    Hypotheses,
    predict_residual,
    prior_correlation,
    repeat_noise,
)
from sweepft.early_stopping.level import Calibration, Level
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.signals import Scores
from sweepft.early_stopping.statistics import SCORE_GRID, cdf, normal_scores, place_weights, quantile
from sweepft.early_stopping.sweep_evidence import RungEvidence, SweepEvidence
from sweepft.early_stopping.trial import TrialRecord

Floats = NDArray[np.float64]

# n * variance: of a normal score known by its rank among n trials, with the edge of the top fraction; of a result.
_RANK_NOISE: Final = 3.0
_RESULT_NOISE: Final = 1.0
_HALF_AT: Final = 0.05  # level at which a trial is flagged that has half of the base rate
_NEGLIGIBLE: Final = 1e-5  # probability of a hypothesis
_TIED: Final = 3.0  # standard deviations: the worst of twenty repeats is seldom further from the top


@dataclass(frozen=True)
class _Estimate:
    """What is estimated of n trials at one rung.

    Attributes:
        names: The trials.
        chances: (n,) probability of each to end in the top fraction.
        scores: Their signals.
        repeats: Number of finished trials of each one's configuration.
        ranked: Number of trials compared, those that ended before the rung among them.
        evidence: What it rests on.
    """

    names: Sequence[str]
    chances: Floats
    scores: Scores
    repeats: Sequence[int]
    ranked: int
    evidence: RungEvidence


class CalibratedRule:
    """Flags trials that are less likely than others to end in the top fraction; see the module.

    Args:
        top_fraction: The best share of the trials, which the rule must keep.
        max_false_stop_rate: Share of the top trials that may be flagged.
        min_peers: Other trials needed at a rung before any trial is flagged there.
        covariates: Hyperparameters that may explain final results, besides gradient norm; finished trials must show it.
        audit: The rate of audits: an audited trial stands for 1 / audit flagged ones.
        calibration: From prior sweeps.
        level: Overrides the level (used to calibrate).
        batch_key: Parameter that holds the batch size.
        objective_error: Standard error of one value of the objective, where known and not reported with it: for an
            accuracy p on n questions, sqrt(p (1 - p) / n). Trials that differ from the top by less than it can tell are
            not flagged.

    Raises:
        ValueError: A share is not in (0, 1), an error is negative, or the calibration was made for a larger bound.
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
        objective_error: float = 0.0,
    ) -> None:
        for name, value in (("top_fraction", top_fraction), ("max_false_stop_rate", max_false_stop_rate)):
            if not 0 < value < 1:
                raise ValueError(f"{name}: must lie between 0 and 1 (got {value!r})")
        if not (math.isfinite(objective_error) and objective_error >= 0):
            raise ValueError(f"objective_error: must be a number of at least 0 (got {objective_error!r})")
        if calibration is not None and calibration.max_false_stop_rate > max_false_stop_rate + 1e-9:
            raise ValueError(
                f"prior_sweeps: the calibration is for max_false_stop_rate {calibration.max_false_stop_rate}, not"
                f" {max_false_stop_rate}\n  calibrate again, or set the same bound"
            )
        self.top_fraction, self.max_false_stop_rate = top_fraction, max_false_stop_rate
        self.min_peers = max(1, min_peers)
        self.calibration, self.objective_error = calibration, objective_error
        self._known = SweepEvidence(self.min_peers, covariates, batch_key)
        self._level = Level(
            top_fraction=top_fraction,
            max_false_stop_rate=max_false_stop_rate,
            audit=audit,
            calibration=calibration,
            given=level,
        )

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Flags a trial whose risk is at or below the level in force."""
        chosen = self._most_informative(cohort, trial)
        peers = len(cohort.at(chosen)) + cohort.ended_before(chosen) - 1
        if peers < self.min_peers:
            return RuleDecision(False, too_few(peers, self.min_peers, rung), evidence={"peers": peers})
        estimate = self._estimate(cohort, chosen, self._sample(cohort, chosen, trial.trial_id))
        own = estimate.names.index(trial.trial_id)
        known, p_top, repeats = estimate.evidence, float(estimate.chances[own]), estimate.repeats[own]
        evidence: dict[str, Any] = {
            "compared_at": chosen.name,
            "peers": estimate.ranked - 1,
            "signals": estimate.scores.of(own),
            "weights": estimate.scores.weights,
            "agreement": round(estimate.scores.agreement, 4),
            "repeats": repeats,
            **known.to_dict(),
        }
        if trial.snapshots[chosen].metric_step:
            evidence["objective_step"] = trial.snapshots[chosen].metric_step
        if known.finished < CONFIRMED:
            reason = f"{known.finished} finished trials show what signals at {chosen.name} are worth"
            return RuleDecision(False, f"{reason} ({CONFIRMED} needed)", p_top, evidence)
        basis, level = self._level.in_force(cohort)
        risk, limit = _risk(p_top / self.top_fraction), self.top_fraction * level / (level + _HALF_AT)
        evidence |= {"limit": round(limit, 6), "level": round(level, 6), "basis": basis}
        finished = f", {repeats} finished of its configuration" if repeats else ""
        reason = (
            f"P(top {100 * self.top_fraction:g}%) = {p_top:.3f} among {estimate.ranked} trials at {chosen.name}"
            f"{finished}; {'<=' if risk <= level else '>'} limit {limit:.3f}"
            f" at a level of {100 * level:.1f}% ({basis}; rests on {known.rests_on})"
        )
        tied = self._tied(cohort, chosen, trial) if risk <= level else None
        if tied is not None:
            return RuleDecision(
                False, f"{tied} at {chosen.name}", p_top, evidence | {"tied": True}, score=risk
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
        rho = prior_correlation(rung)
        n = len(cohort.at(rung)) + cohort.ended_before(rung)
        return 1.0 - rho * rho + rho * rho * _RANK_NOISE / n

    def _sample(self, cohort: Cohort, rung: Rung, own: str) -> list[str]:
        picked = cohort.sample_at(rung)
        return picked if own in picked else [*picked, own]

    # ----- chances ---------------------------------------------------------------------------------------

    def _estimate(self, cohort: Cohort, rung: Rung, names: Sequence[str]) -> _Estimate:
        """The estimate for these trials, all of which have been at the rung."""
        scores = self._known.scores(cohort, rung, names)
        known = self._known.at(cohort, rung, scores)
        count = round(cohort.ended_before(rung) * len(names) / len(cohort.at(rung)))
        repeats = _count_repeats(cohort, names)
        chances = self._chances(cohort, names, scores.columns, count, known.hypotheses, repeats)
        return _Estimate(names, chances, scores, repeats, len(names) + count, known)

    def _chances(
        self, cohort: Cohort, names: Sequence[str], columns: Floats, gone: int, hypotheses: Hypotheses,
        repeats: Sequence[int],
    ) -> Floats:  # fmt: skip
        """(n,) probability of each trial to end in the top fraction, over the hypotheses.

        The ``gone`` trials, which ended before the rung, count as worse than all there, whichever direction is good.
        """
        out = np.zeros(len(names))
        edge = quantile(1.0 - self.top_fraction)
        known: dict[tuple[int, bool], tuple[Floats, Floats]] = {}
        for k, rho, probability in zip(
            hypotheses.signal.tolist(), hypotheses.rho.tolist(), hypotheses.probability.tolist(), strict=True
        ):
            if probability < _NEGLIGIBLE:
                continue
            if (k, rho < 0) not in known:
                column = np.concatenate([columns[:, k], np.full(gone, 1e6 if rho < 0 else -1e6)])
                known[k, rho < 0] = normal_scores(column)[: len(names)], place_weights(column)[: len(names)]
            ranks, places = known[k, rho < 0]
            mean, variance = _results(cohort, names, ranks, rho, repeats)
            rest = (mean - rho * ranks)[:, None]
            each = 1.0 - cdf((edge - rho * SCORE_GRID - rest) / np.sqrt(variance)[:, None])
            out += probability * (places * each).sum(axis=1)
        return out

    def _tied(self, cohort: Cohort, rung: Rung, trial: TrialRecord) -> str | None:
        """Why a trial cannot be distinguished from the top fraction, if it cannot."""
        names = cohort.sample_at(rung)
        kinds = [cohort.trials[t].configuration for t in names]
        if trial.configuration is not None and set(kinds) == {trial.configuration}:
            return "all trials have the same configuration"
        own, at = trial.snapshots[rung].mean_metric, cohort.at(rung)
        values = cohort.sign * np.array([at[t].mean_metric for t in names])
        values_seen = np.sort(values[np.isfinite(values)])[::-1]
        if not math.isfinite(own) or not len(values_seen):
            return None
        noise = repeat_noise(values, kinds)
        stderr = trial.snapshots[rung].metric_stderr
        error = stderr if math.isfinite(stderr) else self.objective_error
        noise = math.hypot(0.0 if math.isnan(noise) else noise, error)
        edge = float(values_seen[max(0, math.ceil(self.top_fraction * len(values_seen)) - 1)])
        if abs(edge - cohort.sign * own) >= _TIED * noise:
            return None
        return f"objective {own:.4g} differs from the top {100 * self.top_fraction:g}% by no more than noise"

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """The level, its basis, and what was learned and is in force at each rung."""
        basis, level = self._level.in_force(cohort)
        learned = {}
        for rung in cohort.rungs():
            estimate = self._estimate(cohort, rung, self._sample(cohort, rung, cohort.names_at(rung)[0]))
            known = estimate.evidence.to_dict()
            learned[rung.name] = {
                **known, "weights": estimate.scores.weights, "agreement": round(estimate.scores.agreement, 4)
            }  # fmt: skip
        return {
            "top_fraction": self.top_fraction,
            "max_false_stop_rate": self.max_false_stop_rate,
            "basis": basis,
            "level": level,
            "certified": basis in ("conformal", "prior_sweeps"),
            "prior_sweeps": self.calibration.sweeps if self.calibration else 0,
            "learned": learned,
        }


def _risk(share: float) -> float:
    """The level from which on a trial is flagged, by its chance as a share of the base rate: the odds of it, scaled.

    From the base rate upwards no level in use reaches it. The scale is one constant for all studies, found in replays:
    about half of the trials are flagged, most of them when their chance is far below the limit.
    """
    return _HALF_AT * share / max(1.0 - share, 1e-9)


def _count_repeats(cohort: Cohort, names: Sequence[str]) -> Sequence[int]:
    """How many of each trial's configuration are among the latest finished ones of these."""
    kinds = [cohort.trials[n].configuration for n in names]
    counts = Counter(kinds[i] for i in _done(cohort, names))
    counts.pop(None, None)
    return [counts[k] for k in kinds]


def _done(cohort: Cohort, names: Sequence[str]) -> list[int]:
    return [i for i, n in enumerate(names) if n in cohort.finals][-FINISHED:]


def _results(
    cohort: Cohort, names: Sequence[str], scores: Floats, rho: float, repeats: Sequence[int]
) -> tuple[Floats, Floats]:
    """Mean and variance of each trial's result, as a normal score, with a signal of this correlation.

    Trials that ended early count as worse than finished ones.
    """
    rest, finals = 1.0 - rho * rho, cohort.finals
    if not any(count > (n in finals) for n, count in zip(names, repeats, strict=True)):
        return rho * scores, np.full(len(names), rest)
    kinds = [cohort.trials[n].configuration for n in names]
    if len(set(kinds)) < 2:
        return rho * scores, np.full(len(names), rest)
    done = _done(cohort, names)
    values = [cohort.sign * finals[names[i]] for i in done]
    stopped = round(cohort.ended_early * len(done) / len(finals))
    ranks = normal_scores(values + [min(values) - 1.0] * stopped)
    missed = (ranks[: len(done)] - rho * scores[done]) / math.sqrt(rest)
    noise = np.full(len(done), _RESULT_NOISE / len(ranks) / rest)
    mean, variance = predict_residual(kinds, done, missed, noise)
    return rho * scores + math.sqrt(rest) * mean, rest * variance
