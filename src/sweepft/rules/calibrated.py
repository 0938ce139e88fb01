"""The calibrated rule: condemn the trials that together hold only a small share of the chances of being good.

A trial's early signals are blended to a score; score and final result are taken as a normal pair with a
correlation that starts from a prior and is learned from finished trials. That gives each trial its probability of
ending in the top ``good`` share. Trials are condemned from the least likely upwards as long as all the
condemned together, now and earlier, hold no more than a *level* of the good ones' total probability.

Where the level comes from decides what may be claimed:

- ``heuristic``: about three times the ``false_stop`` asked for (0.32 for 0.10: on the fine-tuning curves it was chosen
  on, a third of the modelled loss came true); nothing is certified;
- ``history``: fixed by conformal risk control on replays of earlier sweeps: a new sweep like those loses no more
  than ``false_stop`` of its good trials on average;
- ``conformal``: in a sweep with enough good trials of its own, run in full or audited: a good trial is condemned
  with probability ``false_stop`` at most, by its rank among them (p-values, weighted by inverse propensity).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.curve import Snapshot
from sweepft.rules.ends import Ends
from sweepft.rules.fit import fit_weights, rank_correlation
from sweepft.rules.normal import cdf, normal_scores, quantile
from sweepft.rules.signals import SIGNALS, signal_table
from sweepft.rules.verdict import Judgement
from sweepft.rules.windows import Window

__all__ = ["DEFAULT_WEIGHTS", "CalibratedRule", "Calibration"]

Floats = NDArray[np.float64]

DEFAULT_WEIGHTS: Final = (0.7, 1.0, 0.0)  # objective, loss, gradient norm: the norm has to earn its weight
_STEADY: Final = np.array([0.85, 0.93, 0.90])  # prior rank persistence of the signals from window to window
_RHO: Final = ((0.02, 0.05, 0.10, 0.25, 0.50, 0.75), (0.40, 0.60, 0.80, 0.88, 0.94, 0.97))
_RANK_NOISE: Final = (
    3.0  # n * variance: of a normal score known by its rank among n, and of the good ones' edge
)
_SLACK: Final = 3.7  # level 0.32 at a false stop of 0.10, and never 1
_TRUST: Final = 4.0  # finished trials that the prior correlation is worth
_PROXY: Final = 0.5  # what a trial at a later window is worth of one that has finished
_SAMPLE: Final = 200  # peers looked at, so that a verdict's cost does not grow with the sweep
_FINISHED: Final = 48  # finished trials learned from: the latest


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
    false_stop: float
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
        return cls(float(data["level"]), float(data["false_stop"]), int(data["sweeps"]), rho, weights)


@dataclass(frozen=True)
class _View:
    """A trial among its peers at one window."""

    window: Window
    peers: int
    p_good: float
    mass: float
    signals: dict[str, float]
    rho: float
    weights: dict[str, float]
    finished: int


@dataclass(frozen=True)
class _Odds:
    """Trials at one window: the chance of each, and the chances that left with trials that never came there."""

    chances: Floats
    scores: Floats
    lost: float
    ranked: int
    rho: float
    weights: dict[str, float]
    finished: int


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
        good: float = 0.2,
        false_stop: float = 0.10,
        min_peers: int = 3,
        covariates: Sequence[str] = (),
        audit: float = 0.0,
        calibration: Calibration | None = None,
        level: float | None = None,
        batch_key: str = "batch_size",
        weights: Sequence[float] | None = None,
    ) -> None:
        for name, value in (("good", good), ("false_stop", false_stop)):
            if not 0 < value < 1:
                raise ValueError(f"{name}: a share between 0 and 1 is needed (got {value!r})")
        if calibration is not None and calibration.false_stop > false_stop + 1e-9:
            raise ValueError(
                f"history: was calibrated for false_stop {calibration.false_stop}, here it is {false_stop}\n"
                "  calibrate again, or ask for the same bound"
            )
        self.good, self.false_stop, self.min_peers = good, false_stop, max(1, min_peers)
        self.covariates, self.audit, self.batch_key = tuple(covariates), audit, batch_key
        self.calibration, self._level = calibration, level
        self._ends = Ends(None)
        self._own_level: float | None = None
        learned = calibration.weights if calibration is not None and calibration.weights else DEFAULT_WEIGHTS
        self._prior = np.array(weights if weights is not None else learned, dtype=float)
        self._rho = (
            calibration.rho if calibration is not None and calibration.rho else tuple(zip(*_RHO, strict=True))
        )

    # ----- the judgement ---------------------------------------------------------------------------------

    def judge(self, cohort: Cohort, trial: TrialRecord, window: Window) -> Judgement:
        """Condemned when its mass lies at or below the level in force."""
        chosen = self._most_telling(cohort, trial)
        peers = len(cohort.at(chosen)) + cohort.out_before(chosen)[0] - 1
        if peers < self.min_peers:
            reason = f"{peers} other trials at {window.name}, {self.min_peers} needed to judge"
            return Judgement(False, reason, evidence={"peers": peers})
        view = self._view(cohort, trial, chosen)
        basis, level = self._level_in_force(cohort)
        evidence = {
            "compared_at": chosen.name,
            "peers": view.peers,
            "signals": {k: round(v, 4) for k, v in view.signals.items()},
            "mass": round(view.mass, 6),
            "level": round(level, 6),
            "basis": basis,
            "correlation": round(view.rho, 4),
            "weights": {k: round(v, 4) for k, v in view.weights.items()},
            "finished": view.finished,
        }
        word = "at most" if view.mass <= level else "more than"
        reason = (
            f"probability {view.p_good:.3f} of ending in the best {100 * self.good:g}%, from {view.peers} others at"
            f" {chosen.name}; it and all less likely ones hold {100 * view.mass:.1f}% of the chances, {word} the"
            f" {100 * level:.1f}% allowed ({basis})"
        )
        return Judgement(
            view.mass <= level, reason, view.p_good, evidence, basis != "heuristic", score=view.mass
        )

    def chances(self, cohort: Cohort, trials: Sequence[TrialRecord]) -> dict[str, float]:
        """Probability of each of these trials to end in the best ``good`` share, as known now.

        Args:
            cohort: The sweep.
            trials: All of them have been at a window.
        """
        at = {t.trial_id: self._most_telling(cohort, t) for t in trials}
        by_window = {}
        for window in set(at.values()):
            names = cohort.names_at(window)
            by_window[window] = dict(
                zip(names, self._odds(cohort, window, names).chances.tolist(), strict=True)
            )
        return {name: by_window[window][name] for name, window in at.items()}

    def _most_telling(self, cohort: Cohort, trial: TrialRecord) -> Window:
        return min(trial.snapshots, key=lambda w: self._uncertainty(cohort, w))

    def _prior_rho(self, window: Window) -> float:
        xs, ys = zip(*self._rho, strict=True)
        return float(np.interp(window.fraction if window.fraction is not None else 0.1, xs, ys))

    def _uncertainty(self, cohort: Cohort, window: Window) -> float:
        """Prior variance of the final result given the rank at this window: late windows and many peers win."""
        rho = self._prior_rho(window)
        n = len(cohort.at(window)) + cohort.out_before(window)[0]
        return 1.0 - rho * rho + rho * rho * _RANK_NOISE / n

    def _view(self, cohort: Cohort, trial: TrialRecord, window: Window) -> _View:
        names = self._sample(cohort, window, trial.trial_id)
        odds = self._odds(cohort, window, names)
        chances, own = odds.chances, names.index(trial.trial_id)
        mass = float(
            (chances[chances <= chances[own] + 1e-12].sum() + odds.lost) / (chances.sum() + odds.lost)
        )
        signals = dict(zip(odds.weights, odds.scores[own].tolist(), strict=True))
        return _View(
            window, odds.ranked - 1, float(chances[own]), mass, signals, odds.rho, odds.weights, odds.finished
        )

    def _odds(self, cohort: Cohort, window: Window, names: Sequence[str]) -> _Odds:
        """The chances of these trials, all of which have been at the window."""
        table = signal_table(cohort, window, names, self.covariates, self.batch_key)
        weights, rho, finished = self._learn(cohort, window, names, table.columns, table.scores)
        count, spent = cohort.out_before(window)
        scale = len(names) / len(cohort.at(window))
        out = round(count * scale)
        blended = np.concatenate([table.scores @ weights, np.full(out, -1e6)])
        scores = normal_scores(blended)
        spread = math.sqrt(1.0 - rho * rho + rho * rho * _RANK_NOISE / len(scores))
        chances = 1.0 - cdf((quantile(1.0 - self.good) - rho * scores[: len(names)]) / spread)
        shown = {c: float(w) for c, w in zip(table.columns, weights, strict=True)}
        return _Odds(chances, table.scores, spent * scale, len(scores), rho, shown, finished)

    def _sample(self, cohort: Cohort, window: Window, own: str) -> list[str]:
        names = cohort.names_at(window)
        if len(names) <= _SAMPLE:
            return list(names)
        picked = list(names[:: len(names) // _SAMPLE + 1])
        return picked if own in picked else [*picked, own]

    # ----- what is learned from finished trials ------------------------------------------------------------

    def _learn(
        self, cohort: Cohort, window: Window, names: Sequence[str], columns: Sequence[str], scores: Floats
    ) -> tuple[Floats, float, int]:
        """Weights of the columns and the correlation with the final result, from prior and finished trials."""
        prior = np.zeros(len(columns))
        prior[: len(SIGNALS)] = 2.0 * self._prior * self._steadiness(cohort, window, names, scores)
        rho = self._prior_rho(window)
        finals = cohort.finals
        done = [i for i, n in enumerate(names) if n in finals][-_FINISHED:]
        evidence = [(_TRUST if self.calibration is None or not self.calibration.rho else 4 * _TRUST, rho)]
        weights = prior
        both, later = self._later_objectives(cohort, window, names)
        if both:
            evidence.append((_PROXY * len(both), rank_correlation(scores[both] @ prior, later)))
            weights = fit_weights(scores[both], later, prior, strength=2.0)
        if len(done) >= 3:
            ends = np.array([cohort.sign * finals[names[i]] for i in done])
            weights = fit_weights(scores[done], ends, weights, strength=8.0)
            evidence.append((len(done), rank_correlation(scores[done] @ weights, ends)))
        rho = sum(n * r for n, r in evidence) / sum(n for n, _ in evidence)
        return weights, min(0.98, max(0.02, rho)), len(done)

    def _later_objectives(
        self, cohort: Cohort, window: Window, names: Sequence[str]
    ) -> tuple[list[int], Floats]:
        """Positions of trials at the latest window that 4 or more have reached, and their mean objectives (larger is
        better) since this one.

        They come before any trial ends, and show already whether an order holds and which signals foretell it.
        """
        ahead = [w for w in cohort.windows() if w.kind == window.kind and w.value > window.value]
        for after in sorted(ahead, key=lambda w: -w.value):
            here, there = cohort.at(window), cohort.at(after)
            both = [i for i, n in enumerate(names) if n in there and _gained(here[n], there[n]) > 0]
            if len(both) >= 4:
                both = both[-_FINISHED:]
                return both, np.array([cohort.sign * _since(here[names[i]], there[names[i]]) for i in both])
        return [], np.empty(0)

    def _steadiness(self, cohort: Cohort, window: Window, names: Sequence[str], scores: Floats) -> Floats:
        """Relative trust in each signal: one whose ranks jump from window to window is mostly noise."""
        steady = _STEADY.copy()
        earlier = [w for w in cohort.windows() if w.kind == window.kind and w.value < window.value]
        if earlier:
            before = max(earlier, key=lambda w: w.value)
            at = cohort.at(before)
            both = [i for i, n in enumerate(names) if n in at]
            if len(both) >= 3:
                old = signal_table(cohort, before, [names[i] for i in both], batch_key=self.batch_key).scores
                for k in range(len(SIGNALS)):
                    seen = _correlation(scores[both, k], old[:, k])
                    steady[k] = (5.0 * steady[k] + len(both) * max(0.0, seen)) / (5.0 + len(both))
        trust: Floats = (1.0 / (1.02 - steady**2)) ** 2
        relative: Floats = trust / trust.max()
        return relative

    # ----- the level ---------------------------------------------------------------------------------------

    def _level_in_force(self, cohort: Cohort) -> tuple[str, float]:
        if self._level is not None:
            return "given", self._level
        if self._ends.of is not cohort or self._ends.seen > len(cohort.finals):
            self._ends = Ends(cohort)
        if self._ends.take(self.audit):
            self._own_level = self._conformal_level(self._ends)
        own = self._own_level
        if own is not None:
            return "conformal", own
        if self.calibration is not None:
            return "history", self.calibration.level
        return "heuristic", 1.0 - (1.0 - self.false_stop) ** _SLACK

    def _conformal_level(self, ends: Ends) -> float | None:
        """The largest level at which a good trial is condemned with probability ``false_stop`` at most.

        Needs audits: without them condemned good trials are never seen, and survivors are no fair sample. None
        while there are too few good trials to say anything at this level.
        """
        if self.audit <= 0:
            return None
        finals, scores, weights = np.array(ends.finals), np.array(ends.scores), np.array(ends.weights)
        counts = np.isfinite(scores) & (weights > 0)
        finals, scores, weights = finals[counts], scores[counts], weights[counts]
        if len(finals) * self.good < 1.0 / self.false_stop - 1.0:
            return None
        order = np.argsort(-finals)
        top = np.cumsum(weights[order]) <= self.good * weights.sum() + 1e-9
        good = order[top]
        if weights[good].sum() + 1.0 < 1.0 / self.false_stop:
            return None
        ranked = good[np.argsort(scores[good])]
        p_values = (np.cumsum(weights[ranked]) + weights[ranked].max()) / (
            weights[good].sum() + weights[ranked].max()
        )
        allowed = np.nonzero(p_values <= self.false_stop)[0]
        if len(allowed):
            return float(scores[ranked[allowed[-1]]])
        return float(np.nextafter(scores[ranked[0]], -math.inf))  # below every good trial seen

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """The level in force, its basis, and what was learned at each window."""
        basis, level = self._level_in_force(cohort)
        learned = {}
        for window in cohort.windows():
            names = self._sample(cohort, window, cohort.names_at(window)[0])
            table = signal_table(cohort, window, names, self.covariates, self.batch_key)
            weights, rho, finished = self._learn(cohort, window, names, table.columns, table.scores)
            learned[window.name] = {
                "weights": {c: float(w) for c, w in zip(table.columns, weights, strict=True)},
                "correlation": rho,
                "finished": finished,
            }
        return {
            "good": self.good,
            "false_stop": self.false_stop,
            "basis": basis,
            "level": level,
            "certified": basis in ("conformal", "history"),
            "history_sweeps": self.calibration.sweeps if self.calibration else 0,
            "learned": learned,
        }


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 1e-12 else 0.0


def _gained(before: Snapshot, after: Snapshot) -> float:
    """Weight of the objectives reported between two snapshots."""
    return after.metric_weight - before.metric_weight


def _since(before: Snapshot, after: Snapshot) -> float:
    """Mean of the objectives reported between two snapshots."""
    earlier = before.mean_metric * before.metric_weight if before.metric_weight > 0 else 0.0
    return (after.mean_metric * after.metric_weight - earlier) / _gained(before, after)
