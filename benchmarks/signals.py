"""How well each early signal alone predicts the final ranking: Kendall's tau over public learning curves.

    python benchmarks/signals.py [--part held] [--md benchmarks/results/signals.md]

The tables include signals that the rules do not use. "Beyond" is the partial correlation with the final result (on the
scale of normal scores) given the mean objective and the training loss: what a signal adds to these two. Studies and
their split into parts are those of `stopping.py`.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import record
from stopping import CURVES, load

from sweepft.early_stopping.signals import relative_norms
from sweepft.early_stopping.statistics import normal_scores
from sweepft.replay.curves import Floats, Run, Study

RUNGS = (0.05, 0.10, 0.25, 0.50)
TAIL = 0.2  # last part of the progress so far, as in the rules
MOST = 200  # runs per study at most
KNOWN = ("mean objective", "loss")
ENOUGH = 6  # runs per rung at least


def early(run: Run, at: float) -> dict[str, float]:
    """A run's signals at its first row with this progress; NaN where unknown."""
    stop = int(np.searchsorted(run.progress, at * (1 - 1e-9))) + 1
    progress, metric, loss = run.progress[:stop], run.metric[:stop], run.loss[:stop]
    known, seen = np.isfinite(metric), np.isfinite(loss)
    x, y = progress[seen], loss[seen]
    late = y[x > progress[-1] * (1 - TAIL)]
    now = float(late.mean()) if late.size else float(y[-1]) if y.size else math.nan
    first = float(np.median(y[: max(1, min(5, y.size // 10))])) if y.size else math.nan
    norms = run.grad_norm[:stop]
    usable = np.isfinite(norms) & (norms > 0)
    recent = usable & (progress > progress[-1] * (1 - TAIL))
    return {
        "last objective": float(metric[known][-1]) if known.any() else math.nan,
        "mean objective": float(np.average(metric[known], weights=progress[known]))
        if known.any()
        else math.nan,
        "loss": now,
        "relative drop of the loss": (first - now) / abs(first) if first else math.nan,
        "slope of the loss": _slope(x, y),
        "spikes of the loss": float(np.mean(y > 1.5 * np.median(y))) if y.size >= 3 else math.nan,
        "log gradient norm": float(np.log(norms[recent]).mean()) if recent.any() else math.nan,
    }


def _slope(progress: Floats, loss: Floats) -> float:
    """Slope of log loss against log progress over the second half of the progress."""
    half = progress >= progress[-1] / 2 if progress.size else np.zeros(0, dtype=bool)
    x, y = progress[half], loss[half]
    if x.size < 3 or (y <= 0).any() or x[0] <= 0 or x[0] == x[-1]:
        return math.nan
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def columns(study: Study, rung: float) -> tuple[dict[str, Floats], Floats] | None:
    """Signals of the runs at this rung, with signs such that larger is usually better, and the final values."""
    there = [
        (run, value)
        for run, value in zip(study.runs, study.values.tolist(), strict=True)
        if run.progress[-1] >= rung * study.budget and math.isfinite(value)
    ]
    if len(there) < ENOUGH:
        return None
    rows = [early(run, rung * study.budget) for run, _ in there]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    batches = np.array([float(run.params.get("batch_size") or math.nan) for run, _ in there])
    found["gradient norm beside its batch size's"] = relative_norms(found["log gradient norm"], batches)
    sign = 1.0 if study.mode == "max" else -1.0
    rising = {"last objective": sign, "mean objective": sign, "relative drop of the loss": 1.0}
    found = {name: values * rising.get(name, -1.0) for name, values in found.items()}
    return found, np.array([value for _, value in there])


def tau(signal: Floats, finals: Floats) -> float:
    """Kendall's tau-a over the runs with a finite signal; NaN with too few, or if all are equal."""
    seen = np.isfinite(signal)
    a, b = signal[seen], finals[seen]
    if len(a) < ENOUGH or np.ptp(a) == 0:
        return math.nan
    i, j = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])))


def beyond(signals: Mapping[str, Floats], name: str, finals: Floats) -> float:
    """Partial correlation of the signal with the final values, given `KNOWN`; NaN for these, or where unknown."""
    seen = np.isfinite(signals[name])
    known = [k for k in KNOWN if np.isfinite(signals[k][seen]).all()]
    if name in KNOWN or seen.sum() < ENOUGH or np.ptp(signals[name][seen]) == 0:
        return math.nan
    base = np.stack([np.ones(int(seen.sum())), *(normal_scores(signals[k][seen]) for k in known)], axis=1)
    rest = []
    for values in (signals[name][seen], finals[seen]):
        scores = normal_scores(values)
        rest.append(scores - base @ np.linalg.lstsq(base, scores, rcond=None)[0])
    size = math.sqrt(float(rest[0] @ rest[0]) * float(rest[1] @ rest[1]))
    return float(rest[0] @ rest[1]) / size if size > 1e-9 else math.nan


def measure(studies: list[Study]) -> dict[str, dict[str, float | None]]:
    """Signal -> ``tau 5%`` ... (mean over studies) and ``beyond`` (mean over studies and rungs); None where unknown."""
    taus: dict[tuple[str, float], list[float]] = {}
    more: dict[str, list[float]] = {}
    for study in studies:
        picked = study.sample(min(MOST, len(study.runs)), 0)
        for rung in RUNGS:
            found = columns(picked, rung)
            for name, signal in found[0].items() if found else ():
                taus.setdefault((name, rung), []).append(tau(signal, found[1]))
                more.setdefault(name, []).append(beyond(found[0], name, found[1]))
    return {
        name: {f"tau {100 * w:g}%": _mean(taus.get((name, w), [])) for w in RUNGS}
        | {"beyond": _mean(more[name])}
        for name in more
    }


def _mean(values: list[float]) -> float | None:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else None


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What each early signal predicts; see the module.")
    parser.add_argument("--part", choices=("dev", "held"), default="held")
    parser.add_argument("--curves", type=Path, default=CURVES, help="folder of the public curves")
    record.add_options(parser)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    facts = record.about()
    figures = {s: measure(parts[args.part]) for s, parts in load(args.curves).items() if parts[args.part]}
    heads = [f"tau {100 * w:g}%" for w in RUNGS] + ["beyond"]
    rows = [
        [source, name, *("" if x is None else f"{x:+.2f}" for x in map(v.get, heads))]
        for source, signals in figures.items()
        for name, v in signals.items()
    ]
    text = record.table(["source", "signal", *heads], rows)
    record.finish(args, f"What early signals predict, {args.part} studies", facts, figures, text)


if __name__ == "__main__":
    main()
