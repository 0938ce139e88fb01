"""The finalists: scores beside the base model, forgetting, their order and how certain it is.

A configuration with replicates is judged by their mean with Student's t. Without replicates the standard error is
that over benchmark items, which does not include seed noise.
"""

from __future__ import annotations

import math
from typing import Any, Final

from scipy import stats

from sweepft.ledger import Finalist, Row, Standing, SweepState, all_scored, finalists, scores_of

_ANY: Final = (-math.inf, math.inf)
# Metrics of lm-eval that are fractions of items, as is any with a name that ends in `_acc`.
_SHARES: Final = {"acc", "acc_norm", "exact_match", "em", "f1"}


def finalists_summary(sweep: SweepState) -> dict[str, Any] | None:
    """Finalists, best first, or None where none were chosen; docs/reference/report.md has every key."""
    if sweep.finalists is None:
        return None
    chosen = finalists(sweep)
    base = scores_of(sweep, None)
    rank_by = dict(sweep.finalists["rank_by"])
    return {
        "rank_by": rank_by,
        "criterion": " + ".join(f"{w:g} x {key}" for key, w in rank_by.items())
        if len(rank_by) > 1
        else next(iter(rank_by)),
        "columns": _columns(sweep, chosen, base),
        "base": {name: _metrics(row, {}) for name, row in base.items()},
        "rows": [_row(place, f, base, sweep.objective.metric) for place, f in enumerate(chosen, 1)],
        "difference": finalist_difference(*chosen[:2]) if _comparable(sweep, chosen) else None,
        "in_progress": not all_scored(sweep),
        "unscored": sum(f.standing is None for f in chosen),
        "seconds": sum(float(row.get("seconds") or 0.0) for row in sweep.scores.values()),
    }


def _comparable(sweep: SweepState, chosen: list[Finalist]) -> bool:
    """Whether the first two finalists both meet the bounds, so that their scores decide."""
    return len(chosen) > 1 and not any(sweep.violation(finalist.trial) for finalist in chosen[:2])


def finalist_difference(first: Finalist, second: Finalist) -> dict[str, Any] | None:
    """How far ``second`` is behind, ``{value, stderr, clear, text}``; None while one of them lacks scores."""
    a, b = first.standing, second.standing
    if a is None or b is None:
        return None
    value = a.value - b.value
    if a.stderr is None or b.stderr is None:
        return {"value": value, "stderr": None, "clear": None, "text": "no standard error is known"}
    stderr = math.hypot(a.stderr, b.stderr)
    if a.replicates and b.replicates:
        clear = bool(value > stats.t.ppf(0.975, _welch(a, b)) * stderr)
        noise = f"the noise over replicates ({a.replicates} and {b.replicates}), by Welch's t"
    elif a.replicates or b.replicates:
        clear = bool(value > 1.96 * stderr)
        noise = (
            "the noise over replicates of one and items of the other; the latter does not include seed noise"
        )
    else:
        clear = bool(value > 1.96 * stderr)
        noise = "the unpaired noise over items, which does not include seed noise"
    return {
        "value": value,
        "stderr": stderr,
        "clear": clear,
        "text": f"{'more than' if clear else 'within'} {noise}",
    }


def _welch(a: Standing, b: Standing) -> float:
    """Degrees of freedom of a difference of two means."""
    assert a.stderr is not None
    assert b.stderr is not None
    parts = [(s.stderr or 0.0) ** 2 for s in (a, b)]
    below = sum(part**2 / (s.replicates - 1) for part, s in zip(parts, (a, b), strict=True))
    return sum(parts) ** 2 / below if below > 0 else 1.0


def _row(place: int, finalist: Finalist, base: dict[str, Row], metric: str | None) -> dict[str, Any]:
    """A finalist; ``metric`` is that of the objective where it is a task's."""
    trial, standing = finalist.trial, finalist.standing
    validation = (trial.counted or {}).get("sets") or {}
    forgotten = {
        name: found["loss"] - base[name]["metrics"]["loss"]["value"]
        for name, found in validation.items()
        if name in base and base[name]["metrics"]
    }
    return {
        "place": None if standing is None else place,
        "trial_id": trial.trial_id,
        "selection": finalist.why,
        "params": trial.params,
        "value": None if standing is None else standing.value,
        "stderr": None if standing is None else standing.stderr,
        "objective": trial.objective,
        "replicated": _replicated(
            [t.objective for t in finalist.replicates if t.objective is not None],
            _range_of("task" if metric else "validation", metric or "loss"),
        ),
        "replicates_lost": finalist.replicates_lost,
        "scores": {name: _metrics(row, base) for name, row in finalist.scores.items()},
        "replicate_scores": {
            name: {
                metric: _replicated(
                    [
                        s[name]["metrics"][metric]["value"]
                        for s in finalist.replicate_scores
                        if _has(s, name, metric)
                    ],
                    _range_of(row["what"], metric),
                )
                for metric in row["metrics"]
            }
            for name, row in finalist.scores.items()
        }
        if finalist.replicates
        else {},
        "validation_change": forgotten,
        "reasons": {name: row["reason"] for name, row in finalist.scores.items() if row.get("reason")},
    }


def _has(scores: Any, name: str, metric: str) -> bool:
    return name in scores and metric in scores[name]["metrics"]


def _replicated(values: list[float], possible: tuple[float, float]) -> dict[str, Any] | None:
    """Mean over replicates with its 95% interval by Student's t; None without any.

    Args:
        values: One a replicate.
        possible: The metric's range; the interval is cut there.
    """
    n = len(values)
    if n == 0:
        return None
    mean = sum(values) / n
    if n == 1:
        return {"n": 1, "mean": mean, "stderr": None, "low": None, "high": None}
    stderr = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stats.t.ppf(0.975, n - 1)) * stderr
    least, most = possible if possible[0] <= min(values) and max(values) <= possible[1] else _ANY
    return {
        "n": n,
        "mean": mean,
        "stderr": stderr,
        "low": max(least, mean - half),
        "high": min(most, mean + half),
    }


def _range_of(what: str, metric: str) -> tuple[float, float]:
    """Smallest and largest possible value of a metric, as far as its kind determines them.

    A task can use another scale (F1 in percent); values outside the range show that, and it is then ignored.
    """
    word = metric.partition(",")[0]  # lm-eval appends the name of a filter
    if what == "mt_bench":
        return (0.0, math.inf) if word == "failed_verdicts" else (1.0, 10.0)
    if what in ("test", "validation") or "perplexity" in word:
        return (0.0, math.inf)
    return (0.0, 1.0) if word in _SHARES or word.endswith("_acc") else _ANY


def _metrics(row: Row, base: dict[str, Row]) -> dict[str, Any]:
    """Each metric of a score row, with its change from the base model's where that is known."""
    before = (base.get(row["name"]) or {}).get("metrics") or {}
    return {
        metric: {**found, "change": found["value"] - before[metric]["value"] if metric in before else None}
        for metric, found in row["metrics"].items()
    }


def _columns(sweep: SweepState, chosen: list[Finalist], base: dict[str, Row]) -> list[dict[str, Any]]:
    """The table's columns: one metric of each test set and task, the one in ``rank_by`` or else its first."""
    columns = []
    rank_by = (sweep.finalists or {})["rank_by"]
    for item in (sweep.finalists or {})["items"]:
        if item["what"] == "validation":
            continue
        name = item["name"]
        row = next((f.scores[name] for f in chosen if f.scores.get(name, {}).get("metrics")), base.get(name))
        if row is None or not row["metrics"]:
            continue
        named = [m for m in row["metrics"] if f"{name}.{m}" in rank_by]
        metric = (named or list(row["metrics"]))[0]
        columns.append(
            {
                "name": name,
                "what": item["what"],
                "metric": metric,
                "items": row["items"],
                "higher_is_better": row["metrics"][metric]["higher_is_better"],
                "ranks": bool(named) or name in rank_by,
            }
        )
    return columns
