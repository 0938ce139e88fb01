"""How many trials do `prior` and `learn_from` save, and how many does a wrong one cost? Replayed on recorded runs.

``python -m benchmarks.warm_start [--curves FOLDER] [--orders 100]`` writes ``benchmarks/results/warm-start.md``: trials
until a search has tried one of the best 5% of the recorded configurations, by true losses.

A right prior on the learning rate is the median rate of the best 5%, a wrong one lies at the end of the range that is
farther from it. A right earlier sweep is one over another task of the same kind where there is one, else over the same
runs with other draws; a wrong one has its ranking reversed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.search_tables import Table, public_tables, run_search, spec_of, study_table

from sweepft.spec.learn_from import EarlierSweep, EarlierTrial

RESULT = Path(__file__).resolve().parent / "results" / "warm-start.md"
TRIALS, EARLIER = 60, 40


def right_and_wrong(table: Table) -> tuple[float, float]:
    """Priors on the learning rate."""
    best = [table.points[i]["learning_rate"] for i in np.flatnonzero(table.means <= table.top)]
    right = float(np.median(best))
    low, high = table.space["learning_rate"]["log_uniform"]
    return right, low if math.log(right / low) > math.log(high / right) else high


def earlier(table: Table, seed: int, *, reverse: bool) -> EarlierSweep:
    """A random search of some trials on a table, as a new sweep records it."""
    spec = spec_of(table, EARLIER, 10_000 + seed, sampler="random")
    found = sorted(
        run_search(table, spec, 10_000 + seed), key=lambda trial: -trial[1] if reverse else trial[1]
    )
    trials = [EarlierTrial(params, (i + 0.5) / len(found), {}) for i, (params, _, _) in enumerate(found)]
    return EarlierSweep("earlier", table.name, float(seed), 1.0, tuple(trials), ())


def trials_needed(table: Table, seed: int, sampler: str, how: Mapping[str, Any]) -> int:
    """Trials until one of the best 5% was tried; one more than `TRIALS` where none was."""
    spec = spec_of(table, TRIALS, seed, sampler=sampler, changes=how.get("changes", {}))
    runs = run_search(table, spec, seed, tuple(how["earlier"](seed)) if "earlier" in how else ())
    for number, (_, _, true) in enumerate(runs, 1):
        if true <= table.top:
            return number
    return TRIALS + 1


def conditions(table: Table, other: Table) -> dict[str, dict[str, Any]]:
    right, wrong = right_and_wrong(table)
    return {
        "nothing": {},
        "right prior": {"changes": {"learning_rate": {"prior": right}}},
        "wrong prior": {"changes": {"learning_rate": {"prior": wrong}}},
        "right earlier sweep": {"earlier": lambda seed: [earlier(other, seed, reverse=False)]},
        "wrong earlier sweep": {"earlier": lambda seed: [earlier(other, seed, reverse=True)]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--curves", type=Path, help="folder of public learning curves (taskset.parquet)")
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--samplers", nargs="+", default=["tpe"])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    public = public_tables(args.curves) if args.curves else []
    pairs = [(study_table(),) * 2, *list(itertools.pairwise(public))[:2]]
    rows: list[str] = []
    for table, other in pairs:
        for sampler in args.samplers:
            for name, how in conditions(table, other).items():
                if "earlier" in how and sampler not in ("tpe", "gp"):
                    continue
                needed = [trials_needed(table, seed, sampler, how) for seed in range(args.orders)]
                low, middle, high = np.quantile(needed, [0.25, 0.5, 0.75])
                never = np.mean(np.array(needed) > TRIALS)
                cells = [
                    table.name,
                    sampler,
                    name,
                    f"{middle:.0f}",
                    f"{low:.0f} to {high:.0f}",
                    f"{never:.0%}",
                ]
                rows.append(f"| {' | '.join(cells)} |")
                args.out.write_text(page(rows, args.orders, args.samplers), encoding="utf-8")


def page(rows: list[str], orders: int, samplers: list[str]) -> str:
    table, names = "\n".join(rows), " ".join(samplers)
    return f"""\
# What priors and earlier sweeps save, and what wrong ones cost

`python -m benchmarks.warm_start --curves CURVES --orders {orders} --samplers {names}`: trials until a search of at most
{TRIALS} has tried one of the best 5% of the recorded configurations (by true loss), over {orders} orders. Losses are
looked up at the nearest recorded configuration. *Right prior*: the median learning rate of the best 5%, with the
default width; *wrong prior*: the end of the range that is farther from it. *Right earlier sweep*: {EARLIER} random
trials on another task of the collection (for the study, on the same runs with other draws); *wrong*: the same with its
ranking reversed. Random search that meets the best 5% with a chance of 5% a trial needs 14 trials in the median.

| table | sampler | knows | trials, median | quartiles | not within {TRIALS} |
| --- | --- | --- | --- | --- | --- |
{table}
"""


if __name__ == "__main__":
    main()
