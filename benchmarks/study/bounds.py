"""What a bound on forgetting would have changed in the study: who wins, and how surely a trial can be given up early.

The base model's own retention loss was not measured. The lowest loss that any run had at any point stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from benchmarks.study.effects import rungs_of

ALLOWED = (0.2, 0.5, 1.0)
"""Nats of retention loss above the base, as the search's bound would allow."""
TIMES = (1.0, 2.0, 3.0)
"""Times the allowance by which a run is above the base at a rung."""


def base_of(frame: pd.DataFrame) -> float:
    """The lowest retention loss of any run at any point."""
    return float(frame["eval_retention"].min())


def winners(frame: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    """The best run by in-domain loss among those that meet each bound, without one first."""
    base, rows = base_of(frame), []
    for allowed in (None, *ALLOWED):
        meets = runs if allowed is None else runs[runs["retention"] <= base + allowed]
        best = meets.loc[meets["in_domain"].idxmin()]
        rows.append(
            [
                "none" if allowed is None else f"{allowed:g}",
                str(len(meets)),
                f"{best['lr']:g}",
                str(int(best["batch_size"])),
                str(best["schedule"]),
                f"{best['in_domain']:.3f}",
                f"{best['retention']:.3f}",
            ]
        )
    return rows


def recoveries(frame: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    """Of the runs above the bound by so much at a rung: how many there are, and how many meet it at their end.

    Pairs of run and bound over all rungs.
    """
    base, rows = base_of(frame), []
    for rung in rungs_of(frame):
        early = runs[f"retention@{rung:.0%}"] - base
        row = [f"{rung:.0%}"]
        for times in TIMES:
            above = back = 0
            for allowed in ALLOWED:
                over = early > times * allowed
                above += int(over.sum())
                back += int((runs["retention"][over] <= base + allowed).sum())
            row.append(f"{back} of {above}")
        rows.append(row)
    return rows


def summary(frame: pd.DataFrame, runs: pd.DataFrame, table: Any) -> dict[str, Any]:
    """What the page says of it; ``table`` makes a Markdown table of heads and rows."""
    heads: Sequence[str] = [
        "allowed above the base", "runs that meet it", "best learning rate", "batch size", "schedule",
        "in-domain loss", "retention loss",
    ]  # fmt: skip
    over = [f"more than {times:g} times the allowance above" for times in TIMES]
    return {
        "base": f"{base_of(frame):.2f}",
        "winners": table(heads, winners(frame, runs)),
        "recoveries": table(["rung", *over], recoveries(frame, runs)),
    }
