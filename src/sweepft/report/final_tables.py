"""The finalists in ranked.csv and report.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sweepft.report.words import number

__all__ = ["FinalistCells", "finalist_cells", "finalists_markdown"]


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
        seeds = row["confirmed"]
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
