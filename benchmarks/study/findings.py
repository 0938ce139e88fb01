"""Tests the paper's findings on the study.

``python -m benchmarks.study.findings`` writes ``docs/explanation/findings.md``. Every number and every conclusion of
that page is computed here from the tables. The rules for conclusions were fixed before the runs, except for two
wordings chosen later (an edge named for a slope, `equal` for no difference). A test compares the page with the result.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import jinja2
import pandas as pd
from benchmarks.study import bounds
from benchmarks.study.effects import (
    METRICS,
    at_equal_steps,
    choice_effect,
    partial_rank,
    per_doubling,
    rungs_of,
    runs_of,
    seed_noise,
)

from sweepft.report.signals import Estimate, spearman

__all__ = ["REPLAYED", "TABLE", "page"]
ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "benchmarks" / "data" / "study.parquet"
REPLAYED = ROOT / "benchmarks" / "data" / "study-replay.json"
LARGER = ROOT / "benchmarks" / "data" / "study-51M.parquet"
PAGE = ROOT / "docs" / "explanation" / "findings.md"
WORDS = {"in_domain": "in-domain loss", "retention": "retention loss"}
SIGNALS = {
    "grad_norm": ("gradient norm", 1),
    "loss": ("training loss", -1),
    "eval": ("validation loss", None),
}
"""Names of the signals, and the sign of their correlation with the final loss that the paper expects."""


def page(frame: pd.DataFrame, replayed: dict[str, Any] | None, larger: pd.DataFrame | None = None) -> str:
    """The page, from the table of the study, the results of the replays and the runs of a larger model (if any)."""
    main = frame[~frame["study"].str.contains("phased")]
    phased = frame[frame["study"].str.contains("phased")]
    runs = runs_of(main)
    noises = [(WORDS[m], f"{s:.3f}", n) for m in METRICS for s, n in [seed_noise(runs, m)]]
    cells, pareto = _pareto(runs)
    first, second, third = _first(main, runs), _second(main, runs), _third(runs)
    fourth = _fourth(phased) if len(phased) else []
    template = jinja2.Template(
        Path(__file__).with_name("findings.md.jinja").read_text(), undefined=jinja2.StrictUndefined
    )
    text = template.render(
        runs=len(runs),
        samples=f"{int(main['samples'].max()):,}",
        rates=runs["lr"].nunique(),
        batches=runs["batch_size"].nunique(),
        phased=phased["run_id"].nunique(),
        noises=noises,
        short=_table(["the paper says", *WORDS.values()], _short(first, second, third, fourth)),
        first=_table(_FIRST, first),
        grids=[(WORDS[m], _grid(runs, m)) for m in METRICS],
        edges=_edges(runs),
        second=_table(_SECOND, second),
        third=_table(_THIRD, third),
        fourth=_table(_FOURTH, fourth) if fourth else "",
        cells=cells,
        steps_cells=len(at_equal_steps(main, runs).groupby(["lr", "batch_size"])),
        front=len(pareto),
        pareto=_table(["learning rate", "batch size", "in-domain", "retention"], pareto),
        bounds=bounds.summary(main, runs, _table),
        replayed=replayed,
        rules=_rules(replayed) if replayed else "",
        larger=None if larger is None else _larger(larger),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _short(*parts: list[list[str]]) -> list[list[str]]:
    """One row per claim: its conclusions for in-domain and retention loss, from the tables that follow."""
    first, second, third, fourth = parts

    def line(claim: str, rows: list[list[str]], key: tuple[str, ...], column: int) -> list[str]:
        conclusions = {row[len(key)]: row[column] for row in rows if tuple(row[: len(key)]) == key}
        return [claim, *(conclusions.get(word, "cannot tell") for word in WORDS.values())]

    early = second[0][1]  # the first rung
    return [
        line("1. larger batches are better, at equal samples", first, ("samples",), 4),
        line("... at equal steps", first, ("steps",), 4),
        line("lower learning rates are better, at equal samples", first, ("samples",), 6),
        line("... at equal steps", first, ("steps",), 6),
        line("2. a lower early gradient norm goes with a better model", second, ("gradient norm", early), 6),
        line("a higher early loss goes with a better model", second, ("training loss", early), 6),
        line("3. warmup can be left out (near the best rate)", third, ("warmup", "near the best rate"), 5),
        line("decay can be left out (near the best rate)", third, ("decay", "near the best rate"), 5),
        line("4. stacked training loses nothing against phased", fourth, (), 4),
        line("... and both are equal", fourth, (), 5),
    ]


_FIRST = [
    "at equal",
    "metric",
    "runs",
    "per doubling of the batch",
    "larger is better",
    "per tenfold rate",
    "lower is better",
]


def _first(main: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    rows = []
    for label, part in (("samples", runs), ("steps", at_equal_steps(main, runs))):
        for metric in METRICS:
            batch, rate = (per_doubling(part, metric, of) for of in ("batch_size", "lr"))
            row = [label, WORDS[metric], str(len(part)), _says(batch), _better(batch, -1)]
            rows.append([*row, _says(rate), _lower_rates(rate, _cells(part, metric))])
    return rows


def _lower_rates(slope: Estimate | None, cells: pd.DataFrame) -> str:
    """The conclusion on lower rates; names the best rates where they lie inside the tested range.

    A slope over a range with an inner optimum depends on which side of the optimum has more tested rates.
    """
    conclusion = _better(slope, 1)
    tried = (row.dropna() for _, row in cells.iterrows())
    inside = [row.idxmin() for row in tried if row.index[0] < row.idxmin() < row.index[-1]]
    if conclusion != "holds" or not inside:
        return conclusion
    return "only down to " + " or ".join(f"{rate:g}" for rate in sorted({min(inside), max(inside)}))


def _cells(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean final loss by batch size (rows) and learning rate (columns)."""
    return runs.pivot_table(index="batch_size", columns="lr", values=metric, aggfunc="mean")


def _grid(runs: pd.DataFrame, metric: str) -> str:
    cells = _cells(runs, metric)
    rows = []
    for batch, row in cells.iterrows():
        best = row.idxmin()
        rows.append([str(batch), *(f"**{v:.3f}**" if lr == best else f"{v:.3f}" for lr, v in row.items())])
    return _table(["batch size", *(f"rate {lr:g}" for lr in cells.columns)], rows)


def _edges(runs: pd.DataFrame) -> dict[str, Any]:
    cells = _cells(runs, "in_domain")
    best, low = cells.idxmin(axis=1), cells.min(axis=1)
    inner = sum(cells.columns[0] < lr < cells.columns[-1] for lr in best)
    kept = _cells(runs, "retention").idxmin(axis=1)
    ends = {
        "winner": low.idxmin(),
        "worst": low.idxmax(),
        "low": f"{low.min():.3f}",
        "high": f"{low.max():.3f}",
    }
    return {"inner": inner, "lowest": sum(lr == cells.columns[0] for lr in kept), **ends}


_SECOND = ["signal", "rung", "metric", "over all runs", "within batch sizes", "settings accounted for"]
_SECOND += ["the paper's direction, within"]


def _second(main: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    rows = []
    for signal, (name, wanted) in SIGNALS.items():
        for w in rungs_of(main):
            for metric in METRICS:
                column = f"{signal}@{w:.0%}"
                within = spearman(runs[column], runs[metric], runs["batch_size"].tolist())
                found = [
                    spearman(runs[column], runs[metric]),
                    within,
                    partial_rank(runs, column, metric, ("lr", "batch_size")),
                ]
                conclusion = _better(within, wanted) if wanted else "-"
                rows.append([name, f"{w:.3g}", WORDS[metric], *map(_rho, found), conclusion])
    return rows


_THIRD = ["left out", "cells", "metric", "runs", "without minus with (positive: worse)", "loses nothing"]


def _third(runs: pd.DataFrame) -> list[list[str]]:
    ratio = runs["lr"] / runs["batch_size"].map(_cells(runs, "in_domain").idxmin(axis=1))
    near = runs[(ratio > 0.2) & (ratio < 5)]
    rows = []
    for left_out, chosen in (
        ("warmup", lambda r: r["warmup"] == 0),
        ("decay", lambda r: r["schedule"] == "constant"),
    ):
        for where, part in (("all", runs), ("near the best rate", near)):
            for metric in METRICS:
                effect = choice_effect(part, metric, chosen)
                conclusion = _no_loss(effect, seed_noise(runs, metric)[0])
                rows.append([left_out, where, WORDS[metric], str(len(part)), _says(effect), conclusion])
    return rows


_FOURTH = ["metric", "runs", "stacked minus phased (positive: worse)", "seeds differ by"]
_FOURTH += ["stacked loses nothing", "both are equal"]


def _fourth(phased: pd.DataFrame) -> list[list[str]]:
    runs = runs_of(phased)
    rows = []
    for metric in METRICS:
        effect = choice_effect(runs, metric, lambda r: r["data_order"] != "phased")
        noise = seed_noise(runs, metric)[0]
        row = [WORDS[metric], str(len(runs)), _says(effect), f"{noise:.3f}"]
        rows.append([*row, _no_loss(effect, noise), _equal(effect, noise)])
    return rows


def _larger(frame: pd.DataFrame) -> dict[str, str]:
    """Findings 1 and 2 on the runs of a larger model; they are too few for the others."""
    runs = runs_of(frame)
    settings = []
    for metric in METRICS:
        batch, rate = (per_doubling(runs, metric, of) for of in ("batch_size", "lr"))
        settings.append([WORDS[metric], _says(batch), _better(batch, -1), _says(rate), _better(rate, 1)])
    sizes = sorted(runs.groupby("batch_size").size().items())
    return {
        "runs": str(len(runs)),
        "samples": f"{int(frame['samples'].max()):,}",
        "sizes": ", ".join(f"{count} at {size}" for size, count in sizes),
        "settings": _table(_LARGER, settings),
        "signals": _table(_SECOND, _second(frame, runs)),
    }


_LARGER = ["metric", "per doubling of the batch", "larger is better", "per tenfold rate", "lower is better"]


def _pareto(runs: pd.DataFrame) -> tuple[int, list[list[str]]]:
    """Number of cells, and the rows of those that no other cell beats on both losses."""
    cells = runs.groupby(["lr", "batch_size"])[list(METRICS)].mean().reset_index()
    rows = []
    for _, cell in cells.sort_values("in_domain").iterrows():
        beaten = (cells["in_domain"] <= cell["in_domain"]) & (cells["retention"] < cell["retention"])
        if not beaten.any():
            losses = [f"{cell[m]:.3f}" for m in METRICS]
            rows.append([f"{cell['lr']:g}", str(int(cell["batch_size"])), *losses])
    return len(cells), rows


def _rules(replayed: dict[str, Any]) -> str:
    shares = ("saved", "best_kept", "best_kept_within_noise", "false_stop")
    rows = [[r["rule"], *(f"{r[k]:.2f}" for k in shares), f"{r['regret']:.4f}"] for r in replayed["rows"]]
    return _table(["rule", "saved", "best kept", "within noise", "false stops", "regret (nats)"], rows)


def _says(effect: Estimate | None) -> str:
    return "-" if effect is None else f"{effect.value:+.3f} ({effect.low:+.3f} to {effect.high:+.3f})"


def _rho(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _better(effect: Estimate | None, wanted: int) -> str:
    if effect is None or effect.sign == 0:
        return "cannot tell"
    return "holds" if effect.sign == wanted else "**does not hold**"


def _no_loss(effect: Estimate | None, noise: float) -> str:
    if effect is None:
        return "cannot tell"
    if effect.high < noise:
        return "holds"
    return "**does not hold**" if effect.low > 0 and effect.value > noise else "cannot tell"


def _equal(effect: Estimate | None, noise: float) -> str:
    if effect is None:
        return "cannot tell"
    if -noise < effect.low and effect.high < noise:
        return "holds"
    return "**does not hold**" if effect.sign and abs(effect.value) > noise else "cannot tell"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


@click.command()
@click.option("--table", type=click.Path(exists=True, path_type=Path), default=TABLE, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(table: Path, out: Path) -> None:
    """Write the findings page of TABLE."""
    replayed = json.loads(REPLAYED.read_text()) if REPLAYED.exists() else None
    larger = pd.read_parquet(LARGER) if LARGER.exists() else None
    out.write_text(page(pd.read_parquet(table), replayed, larger))


if __name__ == "__main__":
    main()
