"""The calibrated rule: condemn the trials that together hold only a small share of the chances of being good.

A trial's early signals are blended to a score; score and final result are taken as a normal pair with a
correlation that starts from a prior, is the smaller the less objective and loss agree, and is learned from finished
trials. Where repeats of its configuration have finished, what the signals missed of theirs is expected of it, too.
That gives each trial its probability of ending in the top ``top_fraction`` share. Trials are condemned from the least likely
upwards as long as all the condemned together, now and earlier, hold no more than a *level* of the good ones' total
probability.

Where the level comes from decides what may be claimed:

- ``heuristic``: three to four times the ``max_false_stop_rate`` asked for (0.33 for 0.10) where as much is known of the trials'
  ends as is assumed of fine-tunes (on those it was chosen on 0.13 of the good were lost), less where less is known,
  down to what was asked for; nothing is certified;
- ``prior_sweeps``: fixed by conformal risk control on replays of earlier sweeps: a new sweep like those loses no more
  than ``max_false_stop_rate`` of its good trials on average;
- ``conformal``: in a sweep with enough good trials of its own, run in full or audited: a good trial is condemned
  with probability ``max_false_stop_rate`` at most, by its rank among them (p-values, weighted by inverse propensity).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.cohort import Cohort, TrialRecord
from sweepft.early_stopping.decisions import RuleDecision
from sweepft.early_stopping.finished_trials import FinishedTrials
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

Floats = NDArray[np.float64]


_RANK_NOISE: Final = (
    3.0  # n * variance: of a normal score known by its rank among n, and of the good ones' edge
)


_END_NOISE: Final = 1.0  # the same, of a final result


_SLACK: Final = 2.8  # level 0.33 for a false stop of 0.10 where as much is known as on fine-tunes


@dataclass(frozen=True)
class Calibration:
    """What earlier sweeps taught; made by `sweepft.replay.calibrate`, JSON-able.

    Attributes:
        level: The level that conformal risk control allows.
        false_stop: The bound it was made for.
        sweeps: Earlier sweeps it rests on.
        rho: Learned (window fraction, correlation) pairs; the prior where empty.
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
class _Odds:
    """Trials at one window.

    Attributes:
        names: The n of them.
        chances: (n,) of each to be good.
        signals: (n, k) where they stand in each signal.
        repeats: (n,) finished trials of each one's configuration.
        lost: The chances that left with trials that never came there.
        ranked: How many are compared, those among them.
        known: Share of the variance of ends that is known of the running ones, relative to what is assumed at first.
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

    def mass(self, own: int) -> float:
        """Share of all chances that a trial and all less likely ones hold, those that left among them."""
        behind = self.chances[self.chances <= self.chances[own] + 1e-12].sum()
        return float((behind + self.lost) / (self.chances.sum() + self.lost))


class CalibratedRule:
    """See the module.

    Args:
        good: Share of trials that count as good.
        false_stop: Share of the good trials that may be condemned.
        min_peers: Other trials needed at a window before anything is condemned.
        covariates: Config keys that may explain final results; their weights start at zero.
        audit: The rate of audits: an audited trial stands for 1 / audit condemned ones.
        calibration: From earlier sweeps; None without.
        level: Overrides the heuristic level (used to calibrate).
        batch_key: Config key of the batch size.
        weights: Overrides the prior weights of `SIGNALS` (used by ablations).
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
                raise ValueError(f"{name}: a share between 0 and 1 is needed (got {value!r})")
        if calibration is not None and calibration.max_false_stop_rate > max_false_stop_rate + 1e-9:
            raise ValueError(
                f"history: was calibrated for false_stop {calibration.max_false_stop_rate}, here it is {max_false_stop_rate}\n"
                "  calibrate again, or ask for the same bound"
            )
        self.top_fraction, self.max_false_stop_rate, self.min_peers = (
            top_fraction,
            max_false_stop_rate,
            max(1, min_peers),
        )
        self.covariates, self.audit, self.batch_key = tuple(covariates), audit, batch_key
        self.calibration, self._level = calibration, level
        self._ends = FinishedTrials(None)
        self._own_level: float | None = None
        taught = calibration.weights if calibration is not None and calibration.weights else DEFAULT_WEIGHTS
        rho = calibration.rho if calibration is not None else ()
        self._learner = Learner(weights if weights is not None else taught, rho, batch_key)

    # ----- the judgement ---------------------------------------------------------------------------------

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Condemned when its mass lies at or below the level in force."""
        chosen = self._most_telling(cohort, trial)
        peers = len(cohort.at(chosen)) + cohort.out_before(chosen)[0] - 1
        if peers < self.min_peers:
            reason = f"{peers} other trials at {rung.name}, {self.min_peers} needed to judge"
            return RuleDecision(False, reason, evidence={"peers": peers})
        odds = self._odds(cohort, chosen, self._sample(cohort, chosen, trial.trial_id))
        own = odds.names.index(trial.trial_id)
        basis, level = self._level_in_force(cohort, odds.known)
        mass, p_top, repeats = odds.mass(own), float(odds.chances[own]), odds.repeats[own]
        evidence = {
            "compared_at": chosen.name,
            "peers": odds.ranked - 1,
            "signals": dict(
                zip(odds.learned.columns, (round(x, 4) for x in odds.signals[own].tolist()), strict=True)
            ),
            "repeats": repeats,
            "mass": round(mass, 6),
            "level": round(level, 6),
            "basis": basis,
            **odds.learned.to_dict(),
        }
        seen = f", {repeats} of its own configuration," if repeats else ""
        word = "at most" if mass <= level else "more than"
        reason = (
            f"probability {p_top:.3f} of ending in the best {100 * self.top_fraction:g}%, from {odds.ranked - 1} others{seen}"
            f" at {chosen.name}; it and all less likely ones hold {100 * mass:.1f}% of the chances, {word} the"
            f" {100 * level:.1f}% allowed ({basis})"
        )
        return RuleDecision(mass <= level, reason, p_top, evidence, basis != "heuristic", score=mass)

    def chances(self, cohort: Cohort, trials: Sequence[TrialRecord]) -> dict[str, float]:
        """Probability of each of these trials to end in the best ``top_fraction`` share, as known now.

        Args:
            cohort: The sweep.
            trials: All of them have been at a window.
        """
        at = {t.trial_id: self._most_telling(cohort, t) for t in trials}
        by_rung = {}
        for rung in set(at.values()):
            names = cohort.names_at(rung)
            by_rung[rung] = dict(zip(names, self._odds(cohort, rung, names).chances.tolist(), strict=True))
        return {name: by_rung[rung][name] for name, rung in at.items()}

    def _most_telling(self, cohort: Cohort, trial: TrialRecord) -> Rung:
        return min(trial.snapshots, key=lambda w: self._uncertainty(cohort, w))

    def _uncertainty(self, cohort: Cohort, rung: Rung) -> float:
        """Prior variance of the final result given the rank at this window: late windows and many peers win."""
        rho = self._learner.prior_rho(rung)
        n = len(cohort.at(rung)) + cohort.out_before(rung)[0]
        return 1.0 - rho * rho + rho * rho * _RANK_NOISE / n

    def _odds(self, cohort: Cohort, rung: Rung, names: Sequence[str]) -> _Odds:
        """The chances of these trials, all of which have been at the window."""
        table = signal_table(cohort, rung, names, self.covariates, self.batch_key)
        learned = self._learner.learn(cohort, rung, table)
        count, spent = cohort.out_before(rung)
        scale = len(names) / len(cohort.at(rung))
        blended = np.concatenate([table.scores @ learned.weights, np.full(round(count * scale), -1e6)])
        scores = normal_scores(blended)
        rho, ranked = learned.rho, len(scores)
        mean, variance, repeats = _ends(cohort, names, scores[: len(names)], rho)
        spread = np.sqrt(variance + rho * rho * _RANK_NOISE / ranked)
        chances = 1.0 - cdf((quantile(1.0 - self.top_fraction) - mean) / spread)
        running = [i for i, n in enumerate(names) if n not in cohort.finals]
        known = 1.0
        if running:
            known = float(1.0 - variance[running].mean()) / self._learner.prior_rho(rung) ** 2
        return _Odds(
            names, chances, table.scores, repeats, spent * scale, ranked, min(1.0, max(0.0, known)), learned
        )

    def _sample(self, cohort: Cohort, rung: Rung, own: str) -> list[str]:
        picked = cohort.some_at(rung)
        return picked if own in picked else [*picked, own]

    # ----- the level ---------------------------------------------------------------------------------------

    def _level_in_force(self, cohort: Cohort, known: float = 1.0) -> tuple[str, float]:
        if self._level is not None:
            return "given", self._level
        if self._ends.of is not cohort or self._ends.seen > len(cohort.finals):
            self._ends = FinishedTrials(cohort)
        if self._ends.take(self.audit):
            self._own_level = self._conformal_level(self._ends)
        own = self._own_level
        if own is not None:
            return "conformal", own
        if self.calibration is not None:
            return "prior_sweeps", self.calibration.level
        return "heuristic", 1.0 - (1.0 - self.max_false_stop_rate) ** (1.0 + _SLACK * known)

    def _conformal_level(self, ends: FinishedTrials) -> float | None:
        """The largest level at which a good trial is condemned with probability ``max_false_stop_rate`` at most.

        Needs audits: without them condemned good trials are never seen, and survivors are no fair sample. None
        while there are too few good trials to say anything at this level.
        """
        if self.audit <= 0:
            return None
        finals, scores, weights = np.array(ends.finals), np.array(ends.scores), np.array(ends.weights)
        counts = np.isfinite(scores) & (weights > 0)
        finals, scores, weights = finals[counts], scores[counts], weights[counts]
        if len(finals) * self.top_fraction < 1.0 / self.max_false_stop_rate - 1.0:
            return None
        order = np.argsort(-finals)
        top = np.cumsum(weights[order]) <= self.top_fraction * weights.sum() + 1e-9
        top_fraction = order[top]
        if weights[top_fraction].sum() + 1.0 < 1.0 / self.max_false_stop_rate:
            return None
        ranked = top_fraction[np.argsort(scores[top_fraction])]
        p_values = (np.cumsum(weights[ranked]) + weights[ranked].max()) / (
            weights[top_fraction].sum() + weights[ranked].max()
        )
        allowed = np.nonzero(p_values <= self.max_false_stop_rate)[0]
        if len(allowed):
            return float(scores[ranked[allowed[-1]]])
        return float(np.nextafter(scores[ranked[0]], -math.inf))  # below every good trial seen

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """The level (a heuristic one: at most), its basis, and what was learned and is in force at each window."""
        basis, level = self._level_in_force(cohort)
        learned = {}
        for rung in cohort.rungs():
            names = self._sample(cohort, rung, cohort.names_at(rung)[0])
            odds = self._odds(cohort, rung, names)
            level_there = self._level_in_force(cohort, odds.known)[1]
            learned[rung.name] = odds.learned.to_dict() | {"level": level_there}
        return {
            "top_fraction": self.top_fraction,
            "max_false_stop_rate": self.max_false_stop_rate,
            "basis": basis,
            "level": level,
            "certified": basis in ("conformal", "prior_sweeps"),
            "history_sweeps": self.calibration.sweeps if self.calibration else 0,
            "learned": learned,
        }


def _ends(
    cohort: Cohort, names: Sequence[str], scores: Floats, rho: float
) -> tuple[Floats, Floats, Sequence[int]]:
    """Mean and variance of each trial's end, as a normal score, and how many of its configuration have finished.

    What has been stopped counts as worse than what has finished.
    """
    rest = 1.0 - rho * rho
    finals = cohort.finals
    kinds = [cohort.trials[n].configuration for n in names]
    done = [i for i, n in enumerate(names) if n in finals][-FINISHED:]
    counts = Counter(kinds[i] for i in done)
    counts.pop(None, None)
    repeats = [counts[k] for k in kinds]
    ended = set(done)
    if len(set(kinds)) < 2 or not any(count > (i in ended) for i, count in enumerate(repeats)):
        return rho * scores, np.full(len(names), rest), repeats
    values = [cohort.sign * finals[names[i]] for i in done]
    stopped = round(cohort.out * len(done) / len(finals))
    ranks = normal_scores(values + [min(values) - 1.0] * stopped)
    missed = (ranks[: len(done)] - rho * scores[done]) / math.sqrt(rest)
    noise = np.full(len(done), _END_NOISE / len(ranks) / rest)
    mean, variance = predict_residual(kinds, done, missed, noise)
    return rho * scores + math.sqrt(rest) * mean, rest * variance, repeats
