"""What is known in a sweep of its early signals: the hypotheses at each rung, by the trials that have finished.

Finished trials are compared at each rung. Whether results can be known at all is one question for all rungs, answered
where most finished trials have been; what a rung is worth is no more than the ranks there persist to later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.evidence import (
    CONFIRMED,
    FINISHED,
    Hypotheses,
    persistence,
    prior_correlation,
    prior_hypotheses,
)
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.signals import Agreement, Scores, main_scores
from sweepft.early_stopping.statistics import Floats, normal_scores


@dataclass(frozen=True)
class RungEvidence:
    """What is known at one rung.

    Attributes:
        hypotheses: Their correlations are those at the rung.
        finished: Trials learned from.
        persistence: Of the score, up to the rung at which finished trials were compared.
    """

    hypotheses: Hypotheses
    finished: int
    persistence: float

    @property
    def rests_on(self) -> str:
        """What a decision rests on, in words."""
        return f"{self.finished} finished trials" if self.finished >= CONFIRMED else "prior belief"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rests_on": self.rests_on,
            "uninformative": round(self.hypotheses.nothing, 4),
            "correlation": round(self.hypotheses.correlation, 4),
            "persistence": round(self.persistence, 4),
            "finished": self.finished,
        }


class SweepEvidence:
    """The evidence of one sweep.

    Args:
        min_peers: Other trials needed at a rung to compare ranks there with those at earlier ones.
        covariates: Hyperparameters that may explain final results.
        batch_key: Parameter that holds the batch size.
    """

    def __init__(self, min_peers: int, covariates: Sequence[str], batch_key: str) -> None:
        self._min_peers, self._covariates, self._batch_key = min_peers, tuple(covariates), batch_key
        self._agreement: Agreement | None = None
        self._given: dict[Rung, tuple[Any, Hypotheses]] = {}
        self._cache: tuple[Cohort | None, int, dict[Any, Any]] = (None, -1, {})

    def scores(self, cohort: Cohort, rung: Rung, names: Sequence[str]) -> Scores:
        """The scores of these trials at a rung where all of them have been."""
        return self.kept(cohort, (rung, *names), self._new_scores, cohort, rung, names)  # type: ignore[no-any-return]

    def _new_scores(self, cohort: Cohort, rung: Rung, names: Sequence[str]) -> Scores:
        if self._agreement is None or self._agreement.of is not cohort:
            self._agreement = Agreement(cohort)
        return main_scores(cohort, rung, names, self._agreement, self._covariates, self._batch_key)

    def at(self, cohort: Cohort, rung: Rung, scores: Scores) -> RungEvidence:
        """What is known at a rung; ``scores`` are those of trials there."""
        later = [w for w in cohort.rungs() if w.kind == rung.kind and w.value >= rung.value]
        finished = set(cohort.latest_finished(FINISHED))
        done = {w: len(finished & cohort.at(w).keys()) for w in later}
        compared = max((w for w in later if done[w] == max(done.values())), key=lambda w: w.value)
        found, labels, learned_from = self.kept(cohort, ("found", rung), self._found, cohort, rung)
        if compared != rung:  # whether results can be known at all is one question for all rungs
            nothing = self.kept(cohort, ("found", compared), self._found, cohort, compared)[0].nothing
            found = found.with_nothing(nothing)
        last = max(
            (w for w in later if len(cohort.at(w)) > self._min_peers), key=lambda w: w.value, default=rung
        )
        kept = max(0.0, self.kept(cohort, (rung, last), self._persistence, cohort, rung, last))
        here = [scores.labels.index(label) if label in scores.labels else -1 for label in labels]
        column = np.array(here, dtype=np.intp)[found.signal]
        most = np.where(column > 1, 1.0, np.where(column < 0, 0.0, kept))
        known = Hypotheses(np.maximum(column, 0), np.clip(found.rho, -most, most), found.probability)
        return RungEvidence(known, learned_from, kept)

    def _found(self, cohort: Cohort, rung: Rung) -> tuple[Hypotheses, tuple[str, ...], int]:
        """What finished trials say of the signals at a rung, the signals' labels, and the number of these trials."""
        at = cohort.at(rung)
        there = [t for t in cohort.latest_finished(FINISHED) if t in at]
        names = cohort.sample_at(rung)
        sampled = set(names)
        names += [t for t in there if t not in sampled]
        scores = self.scores(cohort, rung, names)
        prior = prior_hypotheses(prior_correlation(rung), len(scores.labels) - 2, scores.objective_seen)
        ranks = np.stack([normal_scores(c) for c in scores.columns.T], axis=1)
        places = {name: i for i, name in enumerate(names)}
        finals = np.array([cohort.sign * cohort.finals[t] for t in there])
        found = self._posterior(rung, prior, ranks[[places[t] for t in there]], finals)
        return found, scores.labels, len(there)

    def _posterior(self, rung: Rung, prior: Hypotheses, ranks: Floats, finals: Floats) -> Hypotheses:
        """`Hypotheses.given`, computed again only if what has been seen at the rung is different."""
        seen = (prior, ranks.tobytes(), finals.tobytes())
        last = self._given.get(rung)
        if last is None or last[0][0] is not prior or last[0][1:] != seen[1:]:
            last = self._given[rung] = (seen, prior.given(ranks, finals))
        return last[1]

    def kept(self, cohort: Cohort, key: Any, make: Callable[..., Any], *args: Any) -> Any:
        """What ``make`` returns, until the sweep changes: a decision asks for it at several rungs."""
        if self._cache[:2] != (cohort, cohort.changes):
            self._cache = (cohort, cohort.changes, {})
        known = self._cache[2]
        if key not in known:
            known[key] = make(*args)
        return known[key]

    def _persistence(self, cohort: Cohort, first: Rung, last: Rung) -> float:
        """Correlation of the score at two rungs: the product over the rungs between."""
        between = (w for w in cohort.rungs() if w.kind == first.kind and first.value <= w.value <= last.value)
        rungs = sorted(between, key=lambda w: w.value)
        kept = 1.0
        for before, after in pairwise(rungs):
            sampled, there = cohort.sample_at(before), cohort.at(after)
            names = [t for t in sampled if t in there]
            one = self.scores(cohort, before, sampled)
            other = self.scores(cohort, after, list(there) if len(there) == len(names) else names)
            kept *= persistence(one.main_of(names), other.main_of(names))
        return kept
