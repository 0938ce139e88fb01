"""The early signals of trials at a rung on one scale, and how reliable they are before any trial has ended.

Objective and training loss make one score. Two things show how much each should count. A signal with ranks that change
from rung to rung is mostly noise. And where training loss and objective order the trials differently, the objective
decides: the loss counts as far as it agrees with the objective, and not at all where it contradicts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.statistics import normal_scores
from sweepft.early_stopping.trial import TrialRecord, varies

Floats = NDArray[np.float64]

SIGNALS: Final = ("objective", "loss", "grad_norm")
"""A larger score is a better objective, a lower loss, a lower gradient norm."""


@dataclass(frozen=True)
class SignalTable:
    """Signals of trials at a rung.

    Attributes:
        names: (n,) trial ids.
        columns: Names of the k columns: `SIGNALS`, then covariates.
        scores: (n, k) normal scores; 0 where a trial has no value.
    """

    names: Sequence[str]
    columns: tuple[str, ...]
    scores: Floats


def signal_table(
    cohort: Cohort,
    rung: Rung,
    names: Sequence[str],
    covariates: Sequence[str] = (),
    batch_key: str = "batch_size",
) -> SignalTable:
    """The signals of these trials, which all have a snapshot at the rung; see `objective_and_loss`."""
    seen = cohort.table_at(rung)
    norms = seen.values("log_grad_norm", seen.places(names))
    trials = [cohort.trials[n] for n in names]
    batches = np.array([t.numeric(batch_key) for t in trials])
    columns = [*objective_and_loss(cohort, rung, names), normal_scores(-relative_norms(norms, batches))]
    used: list[str] = list(SIGNALS)
    for key in covariates:
        for label, values in _covariate(key, trials):
            used.append(label)
            columns.append(values)
    return SignalTable(names, tuple(used), np.stack(columns, axis=1))


def objective_and_loss(cohort: Cohort, rung: Rung, names: Sequence[str]) -> tuple[Floats, Floats]:
    """(n,) normal scores each of the objective and the training loss of n trials at a rung; 0 where one has no value.

    The objective is the mean of those so far, weighted by progress. Loss is compared on equal blocks of samples where
    all trials share one data order (far less noise), else as the mean over the last fifth of the progress so far.
    """
    seen = cohort.table_at(rung)
    places = seen.places(names)
    losses = seen.values("block_loss", places)
    if not (seen.same_order(places) and np.isfinite(losses).all()):
        losses = seen.values("loss", places)
    return normal_scores(cohort.sign * seen.values("mean_metric", places)), normal_scores(-losses)


def relative_norms(logs: Floats, batches: Floats) -> Floats:
    """Log gradient norms minus what the batch size explains; NaN where that is unknown.

    Args:
        logs: (n,) log gradient norms.
        batches: (n,) batch sizes; NaN, or not positive, where unknown.
    """
    known = np.isfinite(batches) & (batches > 0)
    usable = known & np.isfinite(logs)
    sizes = batches[usable]
    if not known.any():
        return logs  # no batch sizes known: taken as equal
    if len(sizes) and (sizes == sizes[0]).all():
        return np.where(batches == sizes[0], logs, math.nan)
    if len(sizes) < 6:
        return np.full(len(logs), math.nan)
    expected = _expected_square(1.0 / sizes, np.exp(2.0 * np.clip(logs[usable], -50, 50)))
    out = np.full(len(logs), math.nan)
    out[usable] = logs[usable] - 0.5 * np.log(expected)
    return out


def _expected_square(inverse: Floats, squared: Floats) -> Floats:
    """The line a + b / B through squared norms, a and b >= 0, by least absolute relative errors.

    Iterated weights instead of plain squares: one spiking trial must not draw the line.
    """
    x = inverse / inverse.max()
    powers = np.stack([np.ones_like(x), x, x * x, squared, squared * x])
    level = float(np.median(squared))
    expected = np.full(len(squared), level)
    for _ in range(12):
        off = np.abs(squared - expected) / expected
        # Weighted least squares in two unknowns, in closed form: it runs at every decision.
        one, first, second, y, xy = powers @ (1.0 / (np.maximum(off, 0.02) * expected**2))
        determinant = one * second - first * first
        a, b = (second * y - first * xy) / determinant, (one * xy - first * y) / determinant
        if a < 0 or b < 0:  # no noise seen, or nothing but noise
            a, b = (y / one, 0.0) if a > b else (0.0, xy / second)
        expected = np.maximum(a + b * x, 1e-3 * level + 1e-300)
    return expected


def _covariate(key: str, trials: Sequence[TrialRecord]) -> list[tuple[str, Floats]]:
    """A numeric covariate as one column of ranks; a category as one column each, if it varies."""
    numbers = [t.numeric(key) for t in trials]
    if any(math.isfinite(x) for x in numbers):
        return [(key, normal_scores(numbers))]
    values = [t.covariate(key) for t in trials]
    levels = sorted({str(v) for v in values if v is not None})
    if len(levels) < 2:
        return [(f"{key}={level}", np.zeros(len(values))) for level in levels]
    return [
        (f"{key}={level}", np.array([0.0 if v is None else float(str(v) == level) for v in values]))
        for level in levels
    ]


@dataclass(frozen=True)
class Scores:
    """What trials are compared by.

    Attributes:
        names: (n,) trial ids.
        columns: (n, k) scores, larger is better: first the main one, from objective and loss, then the same with all
            trials of the better half equal, then each other signal that has values, on the scale of normal scores.
        labels: (k,) what they are; ``score`` is the main one, ``worse half`` the second.
        objective_seen: Whether the main score rests on the objective, and not on the loss alone.
        agreement: Of objective and loss, see `Agreement`.
        weights: Of `SIGNALS` in the main score.
        table: The signals.
    """

    names: Sequence[str]
    columns: Floats
    labels: tuple[str, ...]
    objective_seen: bool
    agreement: float
    weights: dict[str, float]
    table: SignalTable

    @property
    def main(self) -> Floats:
        """(n,) the main score."""
        return self.columns[:, 0]

    def main_of(self, names: Sequence[str]) -> Floats:
        """The main score of these of the trials."""
        place = {name: i for i, name in enumerate(self.names)}
        return self.main[[place[name] for name in names]]

    def of(self, trial: int) -> dict[str, float]:
        """The signals of the trial at this position, by name."""
        values = (round(x, 4) for x in self.table.scores[trial].tolist())
        return dict(zip(self.table.columns, values, strict=True))


def main_scores(
    cohort: Cohort,
    rung: Rung,
    names: Sequence[str],
    agreement: Agreement,
    covariates: Sequence[str] = (),
    batch_key: str = "batch_size",
) -> Scores:
    """The scores of these trials at a rung.

    Args:
        cohort: The sweep.
        rung: Where all of them have been.
        names: n trials.
        agreement: Of objective and loss in this sweep.
        covariates: Hyperparameters that may explain results.
        batch_key: Parameter that holds the batch size.
    """
    table = signal_table(cohort, rung, names, covariates, batch_key)
    objective, loss = table.scores[:, 0], table.scores[:, 1]
    seen, agreed, weights = bool(objective.any()), 1.0, (0.0, 1.0)
    if seen:
        weights = (1.0, 0.0)
        if loss.any():
            stability = rank_stability(cohort, rung, names, (objective, loss))
            agreed = agreement.up_to(rung, stability)
            weights = weights_of(np.clip(stability, _LEAST_STABILITY, _MOST_STABILITY), agreed)
    others = [k for k in range(2, len(table.columns)) if table.scores[:, k].any()]
    main = normal_scores(weights[0] * objective + weights[1] * loss)
    columns = np.stack([main, np.minimum(main, 0.0), *(table.scores[:, k] for k in others)], axis=1)
    labels = ("score", "worse half", *(table.columns[k] for k in others))
    named = {"objective": round(weights[0], 4), "loss": round(weights[1], 4)}
    return Scores(names, columns, labels, seen, agreed, named, table)


_STABILITY: Final = np.array([0.85, 0.93])  # prior rank correlation of objective and loss from rung to rung
_STABILITY_WORTH: Final = 5.0  # in trials
_LEAST_STABILITY: Final = 0.2  # no more than a fivefold correction for noise
_MOST_STABILITY: Final = 0.98
_AGREED: Final = 0.85  # from this correlation on, the two rankings agree fully
_AGREED_WORTH: Final = 4.0  # of the prior (full agreement), in trials
_SHIFTED: Final = 0.4  # the prior where hyperparameters vary that shift the training loss itself


def rank_stability(cohort: Cohort, rung: Rung, names: Sequence[str], scores: tuple[Floats, Floats]) -> Floats:
    """Rank correlation of objective and loss with themselves at the previous rung, shrunk to a prior. Where the noise
    of the objective is known, its correlation is no higher than that allows.

    Args:
        cohort: The sweep.
        rung: Where the trials are.
        names: n trials at the rung.
        scores: (n,) each: their objective and loss there, see `objective_and_loss`.

    Returns:
        (2,) correlations.
    """
    stability = _STABILITY.copy()
    earlier = [w for w in cohort.rungs() if w.kind == rung.kind and w.value < rung.value]
    if earlier:
        before = max(earlier, key=lambda w: w.value)
        at = cohort.at(before)
        both = [i for i, n in enumerate(names) if n in at]
        if len(both) >= 3:
            old = objective_and_loss(cohort, before, [names[i] for i in both])
            for k, (now, then) in enumerate(zip(scores, old, strict=True)):
                if not (then.any() and now[both].any()):
                    continue  # not measured at one of the rungs: that says nothing of its noise
                seen = max(0.0, _correlation(now[both], then))
                stability[k] = (_STABILITY_WORTH * stability[k] + len(both) * seen) / (
                    _STABILITY_WORTH + len(both)
                )
    stability[0] = min(stability[0], _known_reliability(cohort, rung, names))
    return stability


def _known_reliability(cohort: Cohort, rung: Rung, names: Sequence[str]) -> float:
    """Share of the variance of these trials' objectives at a rung that is not noise; 1 where the noise is not known.

    Two measurements of the same models would correlate by this much (Spearman, 1904).
    """
    seen = cohort.table_at(rung)
    if seen.with_error < 3:
        return 1.0
    places = seen.places(names)
    values, errors = seen.values("metric", places), seen.values("metric_stderr", places)
    known = np.isfinite(values) & np.isfinite(errors)
    if np.count_nonzero(known) < 3:
        return 1.0
    variance = float(np.var(values[known], ddof=1))
    noise = float(np.mean(errors[known] ** 2))
    return max(0.0, 1.0 - noise / variance) if variance > 0 else 0.0


def weights_of(reliability: Floats, agreement: float) -> tuple[float, float]:
    """Weights of objective and loss, in normal scores, that best predict what the objective measures.

    Each signal is a true order and noise; reliability is the share of the true order in its variance, agreement the
    correlation of the two true orders (classical test theory). A loss that contradicts the objective gets no weight.

    Args:
        reliability: (2,) of objective and loss, in (0, 1).
        agreement: From -1 to 1.
    """
    a, (own, other) = max(0.0, agreement), reliability.tolist()
    rest = 1.0 - a * a * own * other
    return math.sqrt(own) * (1.0 - a * a * other) / rest, a * math.sqrt(other) * (1.0 - own) / rest


@dataclass(frozen=True)
class _Found:
    """What was found at one rung.

    Attributes:
        trials: Trials there.
        correlation: Of the two rankings; None without both.
        shifted: Hyperparameters vary that shift the training loss itself.
    """

    trials: int
    correlation: float | None
    shifted: bool


class Agreement:
    """How far objective and loss order the trials alike. What was found at a rung is kept until more trials arrive
    there.

    Args:
        cohort: The sweep.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.of = cohort
        self._found: dict[Rung, _Found] = {}

    def up_to(self, rung: Rung, stability: Floats) -> float:
        """Agreement at the rungs up to this one, from -1 to 1; 1 where either ranking is missing.

        The mean correlation of the two rankings, weighted by trials, is corrected for the noise in both (attenuation;
        Spearman, 1904) and shrunk to a prior: full agreement, or much less where dropout, label smoothing or the like
        vary.

        Args:
            rung: The last rung that counts.
            stability: See `rank_stability`.
        """
        all_found = [self._at(w) for w in self.of.rungs() if w.kind == rung.kind and w.value <= rung.value]
        known = [(f.trials, f.correlation) for f in all_found if f.correlation is not None]
        if not known:
            return 1.0
        trials = max(n for n, _ in known)
        mean = sum(n * c for n, c in known) / sum(n for n, _ in known)
        own = max(-1.0, min(1.0, mean / max(_LEAST_STABILITY, math.sqrt(stability[0] * stability[1]))))
        prior = _SHIFTED if any(f.shifted for f in all_found) else 1.0
        agreed = (_AGREED_WORTH * prior + trials * own) / (_AGREED_WORTH + trials)
        return max(-1.0, min(1.0, agreed / _AGREED))

    def _at(self, rung: Rung) -> _Found:
        trials = len(self.of.at(rung))
        known = self._found.get(rung)
        if known is not None and known.trials == trials:
            return known
        names = self.of.sample_at(rung)
        correlation = None
        if len(names) >= 3:
            objective, loss = objective_and_loss(self.of, rung, names)
            if objective.any() and loss.any():
                correlation = _correlation(objective, loss)
        shifted = varies(self.of.trials[n].loss_shifts for n in names)
        found = self._found[rung] = _Found(trials, correlation, shifted)
        return found


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 1e-12 else 0.0
