"""Early signals: rank correlations between a signal at a rung and a final loss, and the statistics behind them.

Only completed trials have a final loss. They are a selected sample, the trials that early stopping let through, which
narrows the range of the signals and weakens the correlations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweepft.early_stopping.curve import in_tail
from sweepft.ledger import Objective, SweepState, TrialState

MIN_PAIRS: Final = 5  # fewer pairs give no rank correlation
SIGNALS: Final = {
    "loss": "training loss",
    "loss_drop": "drop of the training loss",
    "grad_norm": "gradient norm",
    "objective": "objective at the rung",
}
# The sign that arXiv 2412.13337 expects against a final loss: low gradient norm and high training loss are good.
PAPER: Final = {"grad_norm": 1, "loss": -1}


def signal_at(trial: TrialState, rung: float) -> dict[str, float]:
    """The signals of a trial at rung r (a fraction of the budget); empty if it did not reach it.

    Training signals are means over the steps with ``0.8 r < samples_seen / budget <= r``, or of the step that reaches
    the rung where there is none; ``loss_drop`` is 1 - loss / (mean loss of the first fifth up to the rung).
    """
    history = trial.history
    if trial.budget_samples <= 0 or not len(history["step"]):
        return {}
    done = history["samples_seen"] / trial.budget_samples
    if done[-1] < rung:
        return {}
    at = int(np.argmax(done >= rung))
    late = in_tail(done, rung)
    late[at] = late[at] or not late.any()
    early = done <= 0.2 * rung
    early[0] = True
    loss = float(np.mean(history["loss"][late]))
    values = {
        "loss": loss,
        "loss_drop": 1 - loss / float(np.mean(history["loss"][early])),
        "grad_norm": float(np.mean(history["grad_norm"][late])),
    }
    for e in trial.evals:
        if e.get("rung") == rung and isinstance(e.get("objective"), int | float):
            values["objective"] = float(e["objective"])
    return values


def early_signals(
    sweep: SweepState, trials: list[dict[str, Any]], rungs: list[float]
) -> list[dict[str, Any]]:
    """Correlations of every signal at every rung with every final metric.

    Returns:
        Rows ``signal, rung, metric, cohort (all | batch_size), rho, low, high, n, interpretation``. ``rho`` > 0:
        a low signal goes with a low final loss, or with a good final objective. ``metric`` is ``objective`` or the name
        of a validation set.
    """
    done = [t for t in trials if t["rank"] is not None]
    finals = final_metrics(done, sweep.objective)
    cohorts = [t["params"].get("batch_size") for t in done]
    several = len(set(map(str, cohorts))) > 1
    rows = []
    for rung in rungs:
        at = [signal_at(sweep.trials[t["trial_id"]], rung) for t in done]
        for signal in SIGNALS:
            values = [s.get(signal, np.nan) for s in at]
            for metric, final in finals.items():
                for cohort, labels in (("all", None), ("batch_size", cohorts)):
                    if labels is not None and not several:
                        continue
                    found = spearman(values, final, labels)
                    if found is not None:
                        rows.append(_row(signal, rung, metric, cohort, found))
    return rows


def final_metrics(done: list[dict[str, Any]], objective: Objective) -> dict[str, list[float]]:
    """Final losses of completed trials: ``objective``, turned so that lower is better, and each validation set that is
    not the objective itself.
    """
    finals = {"objective": [objective.cost(float(t["objective"])) for t in done]}
    for name in dict.fromkeys(name for t in done for name in t["validation"]):
        losses = [(t["validation"].get(name) or {}).get("loss") for t in done]
        values = [float(v) if isinstance(v, int | float) else np.nan for v in losses]
        if not np.allclose(values, finals["objective"], rtol=1e-9, atol=1e-12):
            finals[name] = values
    return finals


def _row(signal: str, rung: float, metric: str, cohort: str, found: Estimate) -> dict[str, Any]:
    values = asdict(found)
    values["rho"] = values.pop("value")
    return {
        "signal": signal,
        "rung": rung,
        "metric": metric,
        "cohort": cohort,
        **values,
        "interpretation": _interpret(signal, found),
    }


def _interpret(signal: str, found: Estimate) -> str:
    if found.sign == 0:
        return "no clear direction"
    words = "low is good" if found.sign > 0 else "high is good"
    if signal not in PAPER:
        return words
    return f"{words}: {'as' if PAPER[signal] == found.sign else 'against'} the paper"


# --- statistics -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, from ``n`` trials."""

    value: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def spearman(x: ArrayLike, y: ArrayLike, cohorts: Sequence[object] | None = None) -> Estimate | None:
    """Spearman's rank correlation over pairs of finite values.

    Args:
        x, y: Values, one a trial.
        cohorts: If given, ranks are taken and centred within each cohort first (of at least 3 trials), so
            that differences between cohorts do not count.
    Returns:
        None with fewer than `MIN_PAIRS` pairs, or where one side does not vary. The interval is by Fisher's z
        with the variance (1 + r^2/2) / (n - 3) of Bonett and Wright (2000); with k cohorts n - 2 - k
        replaces n - 3.
    """
    from scipy.stats import rankdata

    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(xs) & np.isfinite(ys)
    labels = np.asarray([str(c) for c in cohorts] if cohorts is not None else ["all"] * len(xs))
    rx: list[NDArray[np.float64]] = []
    ry: list[NDArray[np.float64]] = []
    groups = 0
    for label in dict.fromkeys(labels[keep].tolist()):
        here = keep & (labels == label)
        if cohorts is not None and here.sum() < 3:
            continue
        groups += 1
        for source, ranks in ((xs, rx), (ys, ry)):
            r = rankdata(source[here])
            ranks.append((r - r.mean()) / max(1.0, here.sum() - 1.0))
    if not groups:
        return None
    a, b = np.concatenate(rx), np.concatenate(ry)
    n, free = len(a), len(a) - 2 - groups
    spread = math.sqrt(float(a @ a) * float(b @ b))
    if n < MIN_PAIRS or free < 1 or spread < 1e-12:
        return None
    r = float(np.clip(a @ b / spread, -1, 1))
    z, half = math.atanh(min(abs(r), 0.999999)), 1.959964 * math.sqrt((1 + r * r / 2) / free)
    low, high = (
        (math.tanh(z - half), math.tanh(z + half)) if r >= 0 else (-math.tanh(z + half), -math.tanh(z - half))
    )
    return Estimate(r, low, high, n)


def least_squares(
    columns: Mapping[str, ArrayLike], y: ArrayLike, min_free: int = 6
) -> dict[str, Estimate] | None:
    """Ordinary least squares with an intercept: each column's coefficient with its 95% t interval.

    Columns that do not vary, or are linear combinations of earlier ones, are left out.

    Returns:
        None when fewer than ``min_free`` degrees of freedom would remain.
    """
    from scipy.stats import t

    target = np.asarray(y, dtype=float)
    n = len(target)
    kept: list[str] = []
    design: NDArray[np.float64] = np.ones((n, 1))
    for name, column in columns.items():
        wider = np.column_stack([design, np.asarray(column, dtype=float)])
        if np.linalg.matrix_rank(wider) > design.shape[1]:
            design = wider
            kept.append(name)
    free = n - design.shape[1]
    if free < min_free or not kept:
        return None
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ target
    variance = float(np.sum((target - design @ beta) ** 2)) / free
    half = t.ppf(0.975, free) * np.sqrt(variance * np.diag(inverse))
    return {
        name: Estimate(float(beta[i]), float(beta[i] - half[i]), float(beta[i] + half[i]), n)
        for i, name in enumerate(kept, 1)
    }
