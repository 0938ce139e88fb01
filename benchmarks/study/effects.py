"""Effects of the study's hyperparameters, with intervals, from one row per run.

Hyperparameters are compared within cells of equal learning rate and batch size, which have the largest effects. Noise
is the difference between two seeds of one configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepft.report.signals import Estimate, least_squares, spearman

__all__ = [
    "at_equal_steps",
    "choice_effect",
    "partial_rank",
    "per_doubling",
    "rungs_of",
    "runs_of",
    "seed_noise",
]

METRICS = ("in_domain", "retention")


def rungs_of(frame: pd.DataFrame) -> list[float]:
    """Fractions of the budget below 1 at which every run has validation losses, ascending."""
    budget = frame["samples"].max()
    measured = frame[frame["eval_metric"].notna()]
    counts = (measured["samples"] / budget).round(4).value_counts()
    full = frame["run_id"].nunique()
    return sorted(float(w) for w, n in counts.items() if n == full and float(w) < 1)  # type: ignore[arg-type]


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run: hyperparameters, final losses, and the signals at each rung.

    Columns ``loss@W, grad_norm@W, eval@W, retention@W`` for rungs W in percent; the first two are means over the last
    fifth of the way to the rung.
    """
    budget, rungs = frame["samples"].max(), rungs_of(frame)
    rows = []
    for run_id, steps in frame.groupby("run_id", sort=False):
        first = steps.iloc[0]
        row = {k: first[k] for k in ("lr", "batch_size", "warmup", "schedule", "seed", "data_order")}
        row |= {"run_id": run_id, "in_domain": first["final_metric"], "retention": first["final_retention"]}
        share = steps["samples"] / budget
        for w in rungs:
            late = steps[(share > 0.8 * w) & (share <= w + 1e-9)]
            row[f"loss@{w:.0%}"] = late["train_loss"].mean()
            row[f"grad_norm@{w:.0%}"] = late["grad_norm"].mean()
            at = steps[(share - w).abs() < 1e-4].iloc[0]
            row |= {f"eval@{w:.0%}": at["eval_metric"], f"retention@{w:.0%}": at["eval_retention"]}
        rows.append(row)
    runs = pd.DataFrame(rows)
    runs["lr"] = runs["lr"].round(7)
    return runs


def seed_noise(runs: pd.DataFrame, metric: str) -> tuple[float, int]:
    """Standard deviation between seeds of one configuration (nats; from the median over pairs), and number of pairs."""
    keys = ["lr", "batch_size", "warmup", "schedule", "data_order"]
    pairs = [g[metric].to_numpy() for _, g in runs.groupby(keys) if len(g) == 2]
    gaps = np.abs([a - b for a, b in pairs])
    return float(np.median(gaps)) / 0.954, len(pairs)  # |N(0, 2 s^2)| has median 0.954 s


def per_doubling(runs: pd.DataFrame, metric: str, of: str) -> Estimate | None:
    """Change of a final loss per doubling of ``batch_size`` at equal rate, or per tenfold ``lr`` at equal batch size.

    Least squares with one constant for each value of the other hyperparameter, adjusted for schedule and warmup.
    """
    other = "lr" if of == "batch_size" else "batch_size"
    scale: Callable[[float], float] = math.log2 if of == "batch_size" else math.log10
    columns = {of: runs[of].map(scale).to_numpy()} | _dummies(runs, [other, "schedule"])
    columns["warmup"] = (runs["warmup"] > 0).to_numpy(float)
    found = least_squares(columns, runs[metric].to_numpy(float))
    return found[of] if found and of in found else None


def choice_effect(
    runs: pd.DataFrame, metric: str, chosen: Callable[[pd.DataFrame], pd.Series]
) -> Estimate | None:
    """Difference of a final loss between runs that are ``chosen`` and those that are not, within cells of equal
    learning rate and batch size, adjusted for the other hyperparameters that vary."""
    pick = chosen(runs).to_numpy(float)
    cell = runs["lr"].astype(str) + "/" + runs["batch_size"].astype(str)
    columns: dict[str, NDArray[np.float64]] = {"chosen": pick} | _dummies(runs.assign(cell=cell), ["cell"])
    others = {"warmup": (runs["warmup"] > 0).to_numpy(float), "seed": runs["seed"].to_numpy(float)}
    others["decaying"] = (runs["schedule"] != "constant").to_numpy(float)
    columns |= {k: v for k, v in others.items() if len(set(v)) > 1}
    found = least_squares(columns, runs[metric].to_numpy(float))
    return found["chosen"] if found and "chosen" in found else None


def partial_rank(runs: pd.DataFrame, signal: str, metric: str, given: Sequence[str]) -> Estimate | None:
    """Partial rank correlation of a signal with a final loss, given the hyperparameters in ``given``."""
    x, y = (runs[c].rank().to_numpy(float) for c in (signal, metric))
    design = np.column_stack([np.ones(len(runs)), *_dummies(runs, list(given)).values()])
    residuals = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    found = spearman(*residuals)
    if found is None:
        return None
    free = len(runs) - 3 - (np.linalg.matrix_rank(design) - 1)
    z, half = (
        math.atanh(min(abs(found.value), 0.999999)),
        1.96 * math.sqrt((1 + found.value**2 / 2) / max(1, free)),
    )
    low, high = math.tanh(z - half), math.tanh(z + half)
    return Estimate(found.value, *((low, high) if found.value >= 0 else (-high, -low)), found.n)


def at_equal_steps(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Constant-rate runs without warmup, with their losses at a step count that every batch size reaches.

    Other runs do not compare: a decaying run has not decayed by then, and a fractional warmup takes more steps with
    small batches.
    """
    steps = int(frame.groupby("run_id")["step"].max().min())
    plain = runs[(runs["schedule"] == "constant") & (runs["warmup"] == 0)]
    then = frame[(frame["step"] == steps) & frame["eval_metric"].notna()].set_index("run_id")
    plain = plain[plain["run_id"].isin(then.index)].copy()
    plain["in_domain"] = plain["run_id"].map(then["eval_metric"])
    plain["retention"] = plain["run_id"].map(then["eval_retention"])
    return plain


def _dummies(runs: pd.DataFrame, names: list[str]) -> dict[str, NDArray[np.float64]]:
    columns = {}
    for name in names:
        for value in sorted(runs[name].unique())[1:]:
            columns[f"{name}={value}"] = (runs[name] == value).to_numpy(float)
    return columns
