"""Finalists as the ledger has them: their scores, their fresh seeds, and their order by ``rank_by``.

One idea: everything that orders them is turned so that more is better (a loss counts negative); a configuration that
was trained again with fresh seeds counts by those seeds alone, for it was chosen for its first one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweepft.ledger.rows import Row
from sweepft.ledger.trial_state import TrialState

if TYPE_CHECKING:
    from sweepft.ledger.state import SweepState

OBJECTIVE = "objective"


@dataclass(frozen=True)
class Standing:
    """What a finalist counts by.

    Attributes:
        value: More is better.
        stderr: Its standard error: over fresh seeds where there are two or more, else over items; None if not known.
        seeds: Fresh seeds it is the mean of; 0 for the first run alone.
        values: Of each seed.
    """

    value: float
    stderr: float | None
    seeds: int = 0
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Finalist:
    """A trial that was chosen to be scored.

    Attributes:
        trial: The trial.
        why: ``top`` or ``random``.
        scores: `score` rows in force by name of test set or task.
        seeds: Completed trials of its configuration with fresh seeds; ``seed_scores`` are theirs.
        seeds_lost: How many more have diverged or failed: their mean would have been no number.
        standing: What it counts by; None while something is missing.
    """

    trial: TrialState
    why: str
    scores: Mapping[str, Row] = field(default_factory=dict)
    seeds: tuple[TrialState, ...] = ()
    seed_scores: tuple[Mapping[str, Row], ...] = ()
    seeds_lost: int = 0
    standing: Standing | None = None


def finalists(view: SweepState) -> list[Finalist]:
    """The finalists, best first by ``rank_by``; those that lack a score stand last, by the objective.

    Where some were confirmed, they stand before the others: a mean over fresh seeds does not compare with the one run
    that a trial was chosen for.
    """
    if view.finalists is None:
        return []
    found = [_finalist(view, entry) for entry in view.finalists["chosen"] if entry["trial_id"] in view.trials]

    replicated = any(f.standing is not None and f.standing.seeds for f in found)

    def place(f: Finalist) -> tuple[bool, bool, float, float]:
        value, seeds = (-math.inf, 0) if f.standing is None else (f.standing.value, f.standing.seeds)
        objective = math.inf if f.trial.objective is None else f.trial.objective
        return f.standing is None, replicated and not seeds, -value, objective

    return sorted(found, key=place)


def scores_of(view: SweepState, trial_id: str | None) -> dict[str, Row]:
    """Scores in force of a trial, or of the base model, by name of what it was scored on."""
    found = {}
    for part in _parts(view, trial_id):
        row = view.scores.get((trial_id, part["name"]))
        if row is not None and row["digest"] == part["digest"]:
            found[part["name"]] = row
    return found


def missing_scores(view: SweepState, trial_id: str | None, since: float = 0.0) -> list[dict[str, Any]]:
    """Parts that a trial, or the base model, has neither a score on nor a reason why not.

    Args:
        view: The sweep.
        trial_id: None for the base model.
        since: Unix seconds; a reason told before is none any more: whoever resumes may have mended what was broken.
    """
    have = scores_of(view, trial_id)
    told = {name for name, row in have.items() if not row.get("reason") or row["time"] >= since}
    return [part for part in _parts(view, trial_id) if part["name"] not in told]


def _parts(view: SweepState, trial_id: str | None) -> list[dict[str, Any]]:
    """What a trial, or the base model, is scored on. A trial has its held-out losses from its own end."""
    parts = [] if view.finalists is None else view.finalists["parts"]
    return [part for part in parts if trial_id is None or part["what"] != "validation"]


def all_scored(view: SweepState) -> bool:
    """Whether the finalists and their fresh seeds have ended and have every score, or a reason why not."""
    chosen = {entry["trial_id"] for entry in (view.finalists or {"chosen": ()})["chosen"]}
    seeds = [t for t in view.trials.values() if t.replicate_of in chosen]
    asked = [*(view.trials[name] for name in chosen), *(t for t in seeds if t.objective is not None)]
    return all(t.end is not None for t in seeds) and not any(missing_scores(view, t.trial_id) for t in asked)


def metric_of(key: str, names: Iterable[str], metrics: Mapping[str, Iterable[str]]) -> tuple[str, str]:
    """Which part and metric a key of ``rank_by`` means.

    Args:
        key: ``gsm8k``, ``gsm8k.exact_match``, ``NAME.loss``.
        names: Parts there are.
        metrics: Metrics of each, the first one standing for the part.
    Raises:
        ValueError: If there is none, or several; says which there are.
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


def _finalist(view: SweepState, entry: Mapping[str, Any]) -> Finalist:
    trial = view.trials[entry["trial_id"]]
    tried = [t for t in view.trials.values() if t.replicate_of == trial.trial_id]
    seeds = [t for t in tried if t.objective is not None]
    bare = Finalist(
        trial=trial,
        why=entry["why"],
        scores=scores_of(view, trial.trial_id),
        seeds=tuple(seeds),
        seed_scores=tuple(scores_of(view, t.trial_id) for t in seeds),
        seeds_lost=sum(t.status in ("diverged", "failed") for t in tried),
    )
    assert view.finalists is not None
    return Finalist(**{**vars(bare), "standing": _standing(bare, view.finalists["rank_by"])})


def _standing(finalist: Finalist, rank_by: Mapping[str, float]) -> Standing | None:
    """Mean over fresh seeds where all of them have what is asked for, else the first run's."""
    runs = [
        _weighted(trial, scores, rank_by)
        for trial, scores in zip(finalist.seeds, finalist.seed_scores, strict=True)
    ]
    values = [run[0] for run in runs if run is not None]
    if len(values) >= 2 and len(values) == len(runs):
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        return Standing(mean, spread / math.sqrt(len(values)), len(values), tuple(values))
    own = _weighted(finalist.trial, finalist.scores, rank_by)
    return None if own is None else Standing(*own)


def _weighted(
    trial: TrialState, scores: Mapping[str, Row], rank_by: Mapping[str, float]
) -> tuple[float, float | None] | None:
    """Weighted mean of what orders them, more is better, with its standard error; None if anything is missing."""
    total, value, square = sum(rank_by.values()), 0.0, 0.0
    for key, weight in rank_by.items():
        if key == OBJECTIVE:
            score = {"value": trial.objective, "stderr": None, "higher_is_better": False}
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
