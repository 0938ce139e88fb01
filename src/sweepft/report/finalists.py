"""The finalists: what they scored beside the base model, what they forgot, who is first, and how sure that is.

One idea: fresh seeds are the sample that a configuration's standing is judged by, with Student's t; without them the
items of the benchmark are, and seed noise is not in it.
"""
# MERGED The finalists in ranked.csv and report.md.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy import stats

from sweepft.ledger import Finalist, Row, Standing, SweepState, all_scored, finalists, scores_of
from sweepft.report.format import number


def finalists_summary(view: SweepState) -> dict[str, Any] | None:
    """Finalists best first, or None where none were chosen; see docs/reference/report.md for every key."""
    if view.finalists is None:
        return None
    chosen = finalists(view)
    base = scores_of(view, None)
    rank_by = dict(view.finalists["rank_by"])
    clear = finalist_difference(chosen[0], chosen[1]) if len(chosen) > 1 else None
    return {
        "rank_by": rank_by,
        "by": " + ".join(f"{w:g} x {key}" for key, w in rank_by.items())
        if len(rank_by) > 1
        else next(iter(rank_by)),
        "columns": _columns(view, chosen, base),
        "base": {name: _metrics(row, {}) for name, row in base.items()},
        "rows": [_row(place, f, base) for place, f in enumerate(chosen, 1)],
        "difference": clear,
        "open": not all_scored(view),
        "missing": sum(f.standing is None for f in chosen),
        "seconds": sum(float(row.get("seconds") or 0.0) for row in view.scores.values()),
    }


def finalist_difference(first: Finalist, second: Finalist) -> dict[str, Any] | None:
    """How far ``second`` is behind: ``{value, stderr, clear, text}``; None while one of them lacks scores."""
    a, b = first.standing, second.standing
    if a is None or b is None:
        return None
    value = a.value - b.value
    if a.stderr is None or b.stderr is None:
        return {"value": value, "stderr": None, "clear": None, "text": "no standard error is known"}
    stderr = math.hypot(a.stderr, b.stderr)
    if a.replicates and b.replicates:
        clear = bool(value > stats.t.ppf(0.975, _welch(a, b)) * stderr)
        noise = f"the noise of fresh seeds ({a.replicates} and {b.replicates}), by Welch's t"
    elif a.replicates or b.replicates:
        clear = bool(value > 1.96 * stderr)
        noise = "the noise of fresh seeds of one and of the items of the other, which holds no seed noise"
    else:
        clear = bool(value > 1.96 * stderr)
        noise = "the noise of the items, taken as unpaired; seed noise is not in it"
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


def _row(place: int, finalist: Finalist, base: dict[str, Row]) -> dict[str, Any]:
    trial, standing = finalist.trial, finalist.standing
    validation = (trial.evals[-1].get("sets") or {}) if trial.evals else {}
    forgotten = {
        name: found["loss"] - base[name]["metrics"]["loss"]["value"]
        for name, found in validation.items()
        if name in base and base[name]["metrics"]
    }
    return {
        "place": None if standing is None else place,
        "trial_id": trial.trial_id,
        "why": finalist.why,
        "params": trial.params,
        "value": None if standing is None else standing.value,
        "stderr": None if standing is None else standing.stderr,
        "objective": trial.objective,
        "replicated": _replicated(
            [t.objective for t in finalist.replicates if t.objective is not None],
            _range_of("validation", "loss"),
        ),
        "seeds_lost": finalist.replicates_lost,
        "scores": {name: _metrics(row, base) for name, row in finalist.scores.items()},
        "seeds": {
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
    """Mean over fresh seeds with its 95% interval by Student's t; None without any.

    Args:
        values: One a seed.
        possible: The metric's range. An interval over few seeds may leave it, and is cut there.
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


_ANY = (-math.inf, math.inf)


_SHARES = {"acc", "acc_norm", "exact_match", "em", "f1"}


"""Metrics of the harness that are shares of items; so is any whose name ends with ``_acc``."""


def _range_of(what: str, metric: str) -> tuple[float, float]:
    """Smallest and largest possible value of a metric, as far as its kind tells.

    A task may give a name another scale (F1 in percent): values outside of a range show that it is not theirs.
    """
    word = metric.partition(",")[0]  # after it stands a filter of the harness
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


def _columns(view: SweepState, chosen: list[Finalist], base: dict[str, Row]) -> list[dict[str, Any]]:
    """What the table shows: one metric of each test set and task, the first it has, or the one that ranks."""
    columns = []
    rank_by = (view.finalists or {})["rank_by"]
    for part in (view.finalists or {})["items"]:
        if part["what"] == "validation":
            continue
        name = part["name"]
        row = next((f.scores[name] for f in chosen if f.scores.get(name, {}).get("metrics")), base.get(name))
        if row is None or not row["metrics"]:
            continue
        named = [m for m in row["metrics"] if f"{name}.{m}" in rank_by]
        metric = (named or list(row["metrics"]))[0]
        columns.append(
            {
                "name": name,
                "what": part["what"],
                "metric": metric,
                "items": row["items"],
                "higher_is_better": row["metrics"][metric]["higher_is_better"],
                "ranks": bool(named) or name in rank_by,
            }
        )
    return columns


@dataclass(frozen=True)
class FinalistCells:
    """Columns of ranked.csv that finalists fill; none where no finalist was chosen."""

    columns: tuple[str, ...]
    cells: dict[str, list[Any]]

    def of(self, trial_id: str) -> list[Any]:
        """A trial's cells; empty ones for a trial that is no finalist."""
        return self.cells.get(trial_id, [None] * len(self.columns))


def finalist_cells(summary: dict[str, Any]) -> FinalistCells:
    """``finalist.place``, and each metric of each test set and task with its standard error."""
    finals = summary["finalists"]
    if not finals:
        return FinalistCells((), {})
    pairs = list(
        dict.fromkeys(
            (name, metric)
            for row in finals["rows"]
            for name, found in row["scores"].items()
            for metric in found
        )
    )
    heads = [f"score.{name}.{metric}{end}" for name, metric in pairs for end in ("", ".stderr")]
    cells = {}
    for row in finals["rows"]:
        found = [row["scores"].get(name, {}).get(metric) or {} for name, metric in pairs]
        cells[row["trial_id"]] = [row["place"], *(f.get(key) for f in found for key in ("value", "stderr"))]
    return FinalistCells(("finalist.place", *heads), cells)


def finalists_markdown(summary: dict[str, Any], escape: Callable[[Any], str]) -> list[str]:
    """The finalists' table for a pull request; no lines without finalists."""
    finals = summary["finalists"]
    if not finals:
        return []
    columns = finals["columns"]
    heads = ["#", "trial", "held-out loss", "over fresh seeds"]
    heads += [f"{c['name']} ({c['metric']})" for c in columns]
    lines = [
        "## Finalists",
        "",
        f"Ordered by {escape(finals['by'])}; in brackets the change from the base model.",
        "",
    ]
    lines += ["| " + " | ".join(escape(h) for h in heads) + " |", "|" + " --- |" * len(heads)]
    for row in finals["rows"]:
        seeds = row["replicated"]
        known = seeds and seeds["low"] is not None
        interval = (
            f"{number(seeds['mean'])} ({number(seeds['low'])} to {number(seeds['high'])})" if known else "—"
        )
        cells = [number(row["place"]), row["trial_id"], number(row["objective"]), interval]
        cells += [_score(row["scores"].get(c["name"], {}).get(c["metric"])) for c in columns]
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    base = [_score(finals["base"].get(c["name"], {}).get(c["metric"])) for c in columns]
    lines.append("| " + " | ".join(escape(cell) for cell in ["", "base model", "—", "—", *base]) + " |")
    return [*lines, ""]


def _score(found: dict[str, Any] | None) -> str:
    if not found:
        return "—"
    stderr = f" ± {number(found['stderr'], 2)}" if found["stderr"] is not None else ""
    change = f" ({found['change']:+.3g})" if found["change"] is not None else ""
    return f"{number(found['value'])}{stderr}{change}"
