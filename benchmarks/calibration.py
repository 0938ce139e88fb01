"""Does a rule lose no more good runs than it was asked for, and does it know when it knows nothing?

    python benchmarks/calibration.py [--rules calibrated ray-median] [--md FILE] [--json FILE]

Every kind of study is replayed as it is, and in forms in which early signals say less or the opposite: results
permuted, half of them permuted, reversed; the objective known at the end only; retention as the objective; runs that
differ by seeds alone. With ``--after N`` all but the first N runs of a sweep count: those that can learn from others.
Studies that share experiments, data or code are one *kind*. Kinds count once each, and
intervals are bootstraps over kinds. Beside each rule stands `random`: stops at 5% of the budget that save as much.
Curves are read from ``benchmarks/data`` and, where it is there, from ``../shared/curves``.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import record
from frontier import TopSharePolicy

from sweepft.replay.clock import replay_study
from sweepft.replay.curves import Run, Study
from sweepft.replay.policies import Policy
from sweepft.replay.runner import Replay, make_policy
from sweepft.replay.score import bootstrap, repeat_noise, top_runs
from sweepft.replay.sources import frame_to_studies, read_source

CURVES: Final = Path(__file__).resolve().parents[2] / "shared" / "curves"
OWN: Final = Path(__file__).resolve().parent / "data"
ACCURACY_ERROR: Final = 0.011  # one standard error of MetaMathQA's test accuracy
FORMS: Final = ("permuted", "half permuted", "reversed", "end only")
LEAST: Final = 7  # runs of a study
MOST: Final = 400  # runs of a study that are read


@dataclass(frozen=True)
class Kind:
    """Studies that share experiments, data or code: one unit of evidence.

    Attributes:
        name: Its name.
        group: ``fine-tune``, ``retention``, ``from scratch`` or ``ties``.
        studies: With the noise of the final objective in each.
    """

    name: str
    group: str
    studies: tuple[tuple[Study, float], ...]


def kinds(curves: Path = CURVES) -> list[Kind]:
    """All kinds at hand, as they are."""
    found: dict[tuple[str, str], list[tuple[Study, float]]] = {}

    def add(name: str, group: str, study: Study) -> None:
        if len(study.runs) >= LEAST and "phased" not in study.name:
            noise = ACCURACY_ERROR if "MetaMath" in study.name else repeat_noise(study)
            found.setdefault((name, group), []).append((study.sample(MOST, 0), noise))

    for table in sorted(OWN.glob("*.parquet")):
        frame = pd.read_parquet(table)
        for study in frame_to_studies(frame, where=table.name):
            add("own study", "fine-tune", study)
        swapped = frame.assign(eval_metric=frame.eval_retention, final_metric=frame.final_retention)
        for study in frame_to_studies(swapped, where=table.name):
            add("own study, retention", "retention", study)
    for table in sorted(curves.glob("*.parquet")):
        for study in read_source(table):
            parts = study.name.split("/")
            if table.stem == "peft_sft":
                add("MetaMathQA" if "MetaMath" in study.name else "image adapters", "fine-tune", study)
            elif table.stem == "taskset":
                add("text RNNs", "from scratch", study)
            else:
                add(parts[-1].split("_")[0], "from scratch", study)
    named = [Kind(name, group, tuple(studies)) for (name, group), studies in found.items()]
    return [*named, *ties()]


def ties() -> list[Kind]:
    """Runs that differ by seeds alone: noise of each evaluation, or a drift that grows as training goes on."""
    out = []
    for name, drifts, known in (
        ("seeds, noise", False, True),
        ("seeds, drift", True, True),
        ("seeds, settings unknown", True, False),
    ):
        runs = tuple(_tied(i, drifts, known) for i in range(100))
        out.append(Kind(name, "ties", ((Study(f"ties/{name}", "made", "min", 1.0, runs), 0.0025),)))
    return out


def _tied(number: int, drifts: bool, known: bool) -> Run:
    rng = np.random.default_rng(number)
    progress = np.arange(1, 101) / 100
    shape = 0.9 + 0.5 * np.exp(-6 * progress)
    walk = np.cumsum(rng.normal(size=100)) / 10 if drifts else rng.normal(size=100)
    metric = np.where(np.arange(1, 101) % 5 == 0, shape + 0.0025 * walk, math.nan)
    loss = shape + 0.02 * rng.normal(size=100)
    steps = 10.0 * np.arange(1, 101)
    params = {"learning_rate": 4e-4, "batch_size": 8, "seed": number}
    norm = np.full(100, math.nan)
    return Run(
        f"tie{number}", params, steps, progress, progress, loss, norm, metric, metric[-1], params_known=known
    )


def change(study: Study, form: str, seed: int) -> Study:
    """The study with other results, or with the objective at the end only."""
    rng, n = np.random.default_rng(1000 + seed), len(study.runs)
    source = np.arange(n)
    if form == "permuted":
        source = rng.permutation(n)
    elif form == "half permuted":
        some = rng.permutation(n)[: n // 2]
        source[some] = rng.permutation(some)
    elif form == "reversed":
        order = np.argsort(study.values, kind="stable")
        source[order] = order[::-1]
    runs = [
        _end_like(run, study.runs[j], form == "end only") for run, j in zip(study.runs, source, strict=True)
    ]
    return replace(study, runs=runs)


def _end_like(run: Run, other: Run, only: bool) -> Run:
    """The run, with the other one's result on validation data and in the end."""
    metric = np.full_like(run.metric, math.nan) if only else run.metric.copy()
    seen = np.flatnonzero(np.isfinite(metric))
    if len(seen):
        metric[seen[-1] :] = math.nan
    metric[-1] = other.last_metric
    return replace(run, metric=metric, final=other.final)


@dataclass(frozen=True)
class Cell:
    """A rule on one kind in one form: the mean over its studies and orders.

    Attributes:
        kind: The kind's name.
        group: Its group.
        form: ``as it is`` or one of `FORMS`.
        rule: The rule's name.
        runs: Runs of a sweep.
        slots: Runs at the same time.
        asked: The share of good runs that may be lost.
        saved: Share of the compute not spent.
        kept: Share of sweeps in which the best run, or one within its noise, was kept.
        lost: Share of the best fifth that was stopped.
        regret: Best result minus best kept, in units of the distance between best and median.
        random: What stops at random that save as much would have kept.
        random_lost: What they would have lost.
    """

    kind: str
    group: str
    form: str
    rule: str
    runs: int
    slots: int
    asked: float
    saved: float
    kept: float
    lost: float
    regret: float
    random: float
    random_lost: float


def policy_of(rule: str, study: Study, settings: Replay, order: int) -> Policy:
    """Rules by name, those of the replay and ``best 30% by loss``."""
    if rule.startswith("best "):
        share, signal = float(rule.split()[1].rstrip("%")) / 100, rule.rsplit(maxsplit=1)[-1]
        return TopSharePolicy(study, signal, share)  # type: ignore[arg-type]
    return make_policy(rule, study, settings, order)


def replay(
    study: Study, noise: float, rule: str, settings: Replay, order: int, after: int = 0
) -> tuple[float, ...]:
    """Saved, kept, lost, regret, and what random stops that save as much would have kept, of all but the first runs."""
    policy = policy_of(rule, study, settings, order)
    outcome = replay_study(study, policy, slots=settings.slots, order=range(len(study.runs)))
    counted = {r.run_id: r for r in study.runs[after:]}
    values = {
        r.run_id: v for r, v in zip(study.runs, study.values.tolist(), strict=True) if r.run_id in counted
    }
    done = [n for n in counted if outcome.runs[n].status == "completed"]
    best, kept = max(values.values()), max((values[n] for n in done), default=-math.inf)
    finite = [v for v in values.values() if v > -math.inf]
    spread = best - float(np.median(finite))
    saved = 1.0 - sum(outcome.runs[n].spent for n in counted) / sum(r.cost for r in counted.values())
    top = [n for n in top_runs(study, settings.top_fraction) if n in counted]
    lost = sum(n not in done for n in top) / max(1, len(top))
    stopped = min(1.0, max(0.0, saved) / 0.95)
    close = sum(v >= best - noise for v in values.values())
    regret = min(1.0, (best - kept) / spread) if spread > 0 and kept > -math.inf else float(kept < best)
    return saved, float(kept >= best - noise), lost, regret, 1.0 - stopped**close


def measure(
    kind: Kind, form: str, rule: str, runs: int, asked: float, orders: int, slots: int = 4, seed: int = 0,
    least: int = LEAST, after: int = 0,
) -> Cell | None:  # fmt: skip
    """One cell; None where no study of the kind has so many runs."""
    settings = Replay(slots=slots, max_false_stop_rate=asked)
    each = []
    for study, noise in kind.studies:
        if len(study.runs) < max(least, after + 1, min(runs, 20) if runs != 20 else LEAST):
            continue
        found = []
        for order in range(orders):
            picked = study.sample(runs, seed + order)
            if form != "as it is":
                picked = change(picked, form, seed + order)
            found.append(replay(picked, noise, rule, settings, order, after))
        each.append(np.mean(found, axis=0))
    if not each:
        return None
    saved, kept, lost, regret, random = (float(x) for x in np.mean(each, axis=0))
    return Cell(
        kind.name, kind.group, form, rule, runs, slots, asked, saved, kept, lost, regret, random, saved / 0.95
    )


def cells(
    found: Sequence[Kind], rules: Sequence[str], forms: Sequence[str], sizes: Sequence[int],
    bounds: Sequence[float], orders: int, slots: int = 4, seed: int = 0, least: int = LEAST, after: int = 0,
) -> Iterator[Cell]:  # fmt: skip
    """All cells: forms other than ``as it is`` for fine-tunes and text RNNs only."""
    for rule in rules:
        for kind in found:
            informative = kind.group == "fine-tune" or kind.name == "text RNNs"
            for form in forms if informative else ("as it is",):
                for runs in sizes:
                    for asked in bounds if rule == "calibrated" else bounds[:1]:
                        cell = measure(kind, form, rule, runs, asked, orders, slots, seed, least, after)
                        if cell is not None:
                            yield cell


def summarize(found: Sequence[Cell]) -> str:
    """A table over kinds: rule, form, runs and bound; means with intervals over kinds."""
    head = [
        "studies",
        "rule",
        "runs",
        "asked",
        "kinds",
        "saved",
        "kept",
        "lost",
        "regret",
        "random kept",
        "random lost",
    ]
    rows = []
    keys = dict.fromkeys((_row(c), c.rule, c.runs, c.asked) for c in found)
    for label, rule, runs, asked in sorted(keys, key=lambda k: (k[0], k[2], k[3], k[1])):
        part = [c for c in found if (_row(c), c.rule, c.runs, c.asked) == (label, rule, runs, asked)]
        cell = {
            name: _interval([getattr(c, name) for c in part])
            for name in ("saved", "kept", "lost", "regret", "random", "random_lost")
        }
        rows.append(
            [label, rule, runs, f"{asked:g}" if rule == "calibrated" else "", len(part), *cell.values()]
        )
    return record.table(head, rows)


def _row(cell: Cell) -> str:
    return cell.group if cell.form == "as it is" else cell.form


def _interval(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.2f}"
    if len(values) < 3:
        return mean
    low, high = bootstrap(values)
    return f"{mean} [{low:.2f}, {high:.2f}]"


def each_kind(found: Sequence[Cell]) -> str:
    """A row for each cell."""
    head = ["kind", "form", "rule", "runs", "asked", "saved", "kept", "random kept", "lost", "regret"]
    rows = [
        [c.kind, c.form, c.rule, c.runs, f"{c.asked:g}" if c.rule == "calibrated" else "",
         *(f"{x:.2f}" for x in (c.saved, c.kept, c.random, c.lost, c.regret))]
        for c in found
    ]  # fmt: skip
    return record.table(head, rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Calibration of early-stopping rules; see the module.")
    parser.add_argument("--rules", nargs="+", default=["calibrated"])
    parser.add_argument("--forms", nargs="+", default=["as it is", *FORMS])
    parser.add_argument("--runs", nargs="+", type=int, default=[20])
    parser.add_argument("--asked", nargs="+", type=float, default=[0.10])
    parser.add_argument("--orders", type=int, default=10)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=int, default=LEAST, help="leave out studies with fewer runs")
    parser.add_argument("--after", type=int, default=0, help="count all but so many first runs of each sweep")
    parser.add_argument("--kinds", nargs="*", help="names of kinds (default: all)")
    parser.add_argument("--curves", type=Path, default=CURVES, help="folder of the public curves")
    record.add_options(parser)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    facts, begun = record.about(), time.time()
    studied = [k for k in kinds(args.curves) if not args.kinds or k.name in args.kinds]
    how = (args.orders, args.slots, args.seed, args.least, args.after)
    found = list(cells(studied, args.rules, args.forms, args.runs, args.asked, *how))
    facts["seconds"] = round(time.time() - begun)
    text = f"{summarize(found)}\n\n## Kind by kind\n\n{each_kind(found)}"
    figures: dict[str, Any] = {"cells": [c.__dict__ for c in found]}
    record.finish(args, "Calibration of early-stopping rules", facts, figures, text)


if __name__ == "__main__":
    main()
