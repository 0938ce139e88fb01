"""The ranking of a sweep's trials and finalists, and its winner.

Trials that meet the bounds of ``search.subject_to`` come before those that do not, everywhere. The bounds apply to the
losses of the trial itself, which is what is exported, not to those of its replicates.

All numbers that order finalists are turned so that higher is better (a loss counts negative). A configuration that was
trained again with other seeds counts by these replicates alone, because it was selected for its first run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweepft.ledger.objective import Objective
from sweepft.ledger.rows import Row
from sweepft.ledger.state import SweepState
from sweepft.ledger.trial_state import TrialState

OBJECTIVE = "objective"


@dataclass(frozen=True)
class Ranked:
    """A place in the ranking; ``rank`` is None for a trial that did not reach the full budget."""

    rank: int | None
    trial: TrialState


@dataclass(frozen=True)
class Standing:
    """What a finalist is ranked by.

    Attributes:
        value: Higher is better.
        stderr: Its standard error: over replicates where there are two or more, else over items; None if not known.
        replicates: Number of replicates it is the mean of; 0 for the first run alone.
        values: Of each replicate.
    """

    value: float
    stderr: float | None
    replicates: int = 0
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Finalist:
    """A trial that was chosen to be evaluated.

    Attributes:
        trial: The trial.
        why: ``top``, ``random`` or ``baseline``.
        scores: Its `score` rows by name of the item.
        replicates: Completed replicates of the trial; ``replicate_scores`` are theirs.
        replicates_lost: How many more diverged or failed.
        standing: What it is ranked by; None while a score is missing.
    """

    trial: TrialState
    why: str
    scores: Mapping[str, Row] = field(default_factory=dict)
    replicates: tuple[TrialState, ...] = ()
    replicate_scores: tuple[Mapping[str, Row], ...] = ()
    replicates_lost: int = 0
    standing: Standing | None = None


def ranking(state: SweepState) -> list[Ranked]:
    """Completed trials, best first by `SweepState.rank_key`, ranked 1..n; then all others, unranked, by their progress.

    Trials without a finite objective and replicates are not ranked.
    """
    ranked = sorted((t for t in state.trials.values() if t.ranked), key=state.rank_key)
    others = sorted((t for t in state.trials.values() if not t.ranked), key=lambda t: (-t.progress, t.number))
    return [Ranked(i, t) for i, t in enumerate(ranked, 1)] + [Ranked(None, t) for t in others]


def winner(state: SweepState) -> TrialState | None:
    """The best of the finalists by ``rank_by`` once all are scored, else the first of the ranking; None without any."""
    chosen = finalists(state)
    if chosen and chosen[0].standing is not None and all_scored(state):
        return chosen[0].trial
    return state.leader


def finalists(state: SweepState) -> list[Finalist]:
    """The finalists, best first by ``rank_by``; those that lack a score come last, by the objective. Finalists that do
    not meet the bounds follow all that do, the nearest first.

    Finalists with replicates come before those without: a mean over replicates is not comparable with the single run
    that a trial was selected for.
    """
    if state.finalists is None:
        return []
    rank_by = state.finalists["rank_by"]
    chosen = (entry for entry in state.finalists["chosen"] if entry["trial_id"] in state.trials)
    found = [_finalist(state, entry["trial_id"], entry["why"], rank_by) for entry in chosen]
    replicated = any(f.standing is not None and f.standing.replicates for f in found)

    def place(f: Finalist) -> tuple[float, bool, bool, float, float]:
        value, replicates = (
            (-math.inf, 0) if f.standing is None else (f.standing.value, f.standing.replicates)
        )
        over, cost = state.violation(f.trial), state.objective.cost(f.trial.objective)
        return over, f.standing is None, replicated and not replicates, -value, cost

    return sorted(found, key=place)


def scores_of(state: SweepState, trial_id: str | None) -> dict[str, Row]:
    """The scores of a trial, or of the base model (None), by name of the item.

    A score with another digest than the item's was made in another way and does not count.
    """
    found = {}
    for item in _items(state, trial_id):
        row = state.scores.get((trial_id, item["name"]))
        if row is not None and row["digest"] == item["digest"]:
            found[item["name"]] = row
    return found


def missing_scores(state: SweepState, trial_id: str | None, since: float = 0.0) -> list[dict[str, Any]]:
    """Items for which a trial, or the base model, has neither a score nor a reason why there is none.

    Args:
        state: The sweep.
        trial_id: None for the base model.
        since: Unix seconds. Earlier reasons do not count: a resume tries again, since the cause may be fixed.
    """
    have = scores_of(state, trial_id)
    settled = {name for name, row in have.items() if not row.get("reason") or row["time"] >= since}
    return [item for item in _items(state, trial_id) if item["name"] not in settled]


def all_scored(state: SweepState) -> bool:
    """Whether the replicates have ended, and all finalists and replicates have every score or a reason for none."""
    listed = {entry["trial_id"] for entry in (state.finalists or {"chosen": ()})["chosen"]}
    chosen = listed & state.trials.keys()
    replicates = [t for t in state.trials.values() if t.replicate_of in chosen]
    scored = [*(state.trials[name] for name in chosen), *(t for t in replicates if t.objective is not None)]
    ended = all(t.end is not None for t in replicates)
    return ended and not any(missing_scores(state, t.trial_id) for t in scored)


def metric_of(key: str, names: Iterable[str], metrics: Mapping[str, Iterable[str]]) -> tuple[str, str]:
    """The item and the metric that a key of ``rank_by`` means.

    Args:
        key: ``gsm8k``, ``gsm8k.exact_match``, ``NAME.loss``.
        names: Names of the items.
        metrics: Metrics of each item; the first one is its default.
    Raises:
        ValueError: If there is none, or several; the message lists those that exist.
    """
    name = max((n for n in names if key == n or key.startswith(f"{n}.")), key=len, default=None)
    if name is None:
        raise ValueError(f"{key} is none of {', '.join(names)}")
    have, wanted = list(metrics[name]), key[len(name) + 1 :]
    found = [m for m in have if m == wanted] or [m for m in have if m.startswith(f"{wanted},")]
    if not wanted:
        found = have[:1]
    if len(found) != 1:
        choice = ", ".join(f"{name}.{m}" for m in (found or have))
        raise ValueError(f"{key} {'is ambiguous' if found else 'is not measured'}: use one of {choice}")
    return name, found[0]


def _items(state: SweepState, trial_id: str | None) -> list[dict[str, Any]]:
    """What a trial, or the base model, is scored on. A trial's validation losses are those of its last step."""
    items = [] if state.finalists is None else state.finalists["items"]
    return [item for item in items if trial_id is None or item["what"] != "validation"]


def _finalist(state: SweepState, trial_id: str, why: str, rank_by: Mapping[str, float]) -> Finalist:
    started = [t for t in state.trials.values() if t.replicate_of == trial_id]
    completed = [t for t in started if t.objective is not None]
    finalist = Finalist(
        trial=state.trials[trial_id],
        why=why,
        scores=scores_of(state, trial_id),
        replicates=tuple(completed),
        replicate_scores=tuple(scores_of(state, t.trial_id) for t in completed),
        replicates_lost=sum(t.status in ("diverged", "failed") for t in started),
    )
    return replace(finalist, standing=_standing(finalist, rank_by, state.objective))


def _standing(finalist: Finalist, rank_by: Mapping[str, float], objective: Objective) -> Standing | None:
    """The mean over two or more replicates if all of them have every score, else the value of the first run."""
    runs = [
        _weighted(trial, scores, rank_by, objective)
        for trial, scores in zip(finalist.replicates, finalist.replicate_scores, strict=True)
    ]
    values = [run[0] for run in runs if run is not None]
    if len(values) >= 2 and len(values) == len(runs):
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        return Standing(mean, spread / math.sqrt(len(values)), len(values), tuple(values))
    own = _weighted(finalist.trial, finalist.scores, rank_by, objective)
    return None if own is None else Standing(*own)


def _weighted(
    trial: TrialState, scores: Mapping[str, Row], rank_by: Mapping[str, float], objective: Objective
) -> tuple[float, float | None] | None:
    """Weighted mean of the metrics of ``rank_by`` with its standard error; None if one is missing."""
    total, value, square = sum(rank_by.values()), 0.0, 0.0
    if total <= 0:
        return None
    for key, weight in rank_by.items():
        if key == OBJECTIVE:
            score = {"value": trial.objective, "stderr": None, "higher_is_better": objective.maximize}
        else:
            metrics = {name: list(row["metrics"]) for name, row in scores.items() if row["metrics"]}
            try:
                name, metric = metric_of(key, metrics, metrics)
            except ValueError:
                return None
            score = scores[name]["metrics"][metric]
        if score["value"] is None or not math.isfinite(score["value"]):
            return None
        value += weight * score["value"] * (1 if score["higher_is_better"] else -1)
        square += math.nan if score["stderr"] is None else (weight * score["stderr"]) ** 2
    return value / total, (math.sqrt(square) / total if math.isfinite(square) else None)
