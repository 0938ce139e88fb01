"""Recorded runs as an objective for searches: params in, the loss of the nearest recorded run out.

Used by `benchmarks.enough` and `benchmarks.warm_start`, which run sweepft's own proposer on them. The tables are the
study's 120 runs (`benchmarks/data/study.parquet`) and, where the folder of public curves is given, tasks of TaskSet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmarks.study.effects import runs_of
from numpy.typing import NDArray

from sweepft.search import Proposer
from sweepft.spec import SweepSpec, from_dict
from sweepft.spec.learn_from import EarlierSweep

STUDY = Path(__file__).resolve().parent / "data" / "study.parquet"


@dataclass(frozen=True)
class Table:
    """Recorded runs of one study.

    Attributes:
        name: Of the study.
        space: ``search.space`` of a sweep over them.
        points: Params of each configuration.
        losses: Final losses of each configuration, one for each of its runs.
        truth: True loss of each configuration; by default the mean of its losses.
    """

    name: str
    space: Mapping[str, Mapping[str, Any]]
    points: list[dict[str, Any]]
    losses: list[list[float]] = field(repr=False)
    truth: list[float] | None = field(default=None, repr=False)

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """True loss of each configuration."""
        return np.array(self.truth or [np.mean(losses) for losses in self.losses])

    @property
    def top(self) -> float:
        """The loss that the best 5% of the configurations reach."""
        return float(np.quantile(self.means, 0.05))

    def nearest(self, params: Mapping[str, Any]) -> int:
        """Number of the configuration next to these params, on the scales of the space."""
        return int(np.argmin(((self._places - self._place(params)) ** 2).sum(axis=1)))

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        return np.array([self._place(point) for point in self.points])

    def _place(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        found: list[float] = []
        for key, dimension in self.space.items():
            value = params[key]
            if "choice" in dimension:
                choices = list(dimension["choice"])
                if all(isinstance(choice, int | float) for choice in choices):
                    found.append(choices.index(value) / max(1, len(choices) - 1))
                else:
                    found += [float(value == choice) for choice in choices]
            else:
                low, high = map(math.log, dimension["log_uniform"])
                found.append((math.log(value) - low) / (high - low))
        return np.array(found)


def study_table() -> Table:
    """The study's 120 fine-tuning runs: rate, batch size, schedule and warmup, some with two seeds."""
    frame = pd.read_parquet(STUDY)
    runs = runs_of(frame[~frame["study"].str.contains("phased")])
    points, losses = [], []
    for (rate, size, warmup, schedule), group in runs.groupby(["lr", "batch_size", "warmup", "schedule"]):
        points.append(
            {
                "learning_rate": float(rate),
                "batch_size": int(size),
                "warmup": round(float(warmup), 6),
                "schedule": schedule,
            }
        )
        losses.append(group["in_domain"].astype(float).tolist())
    space = {
        "learning_rate": {
            "log_uniform": [min(p["learning_rate"] for p in points), max(p["learning_rate"] for p in points)]
        },
        **{key: {"choice": sorted({p[key] for p in points})} for key in ("batch_size", "warmup", "schedule")},
    }
    return Table("study", space, points, losses)


def public_tables(folder: Path) -> list[Table]:
    """Tasks of TaskSet, from ``taskset.parquet`` in a folder of public curves.

    Of their hyperparameters only the learning rate is known, so a task is a noisy function of it: the true loss is the
    mean over the 41 runs with the nearest rates. Losses of runs that diverged or learned nothing count as 0.75 at most.
    """
    frame = pd.read_parquet(folder / "taskset.parquet", columns=["study", "run_id", "lr", "final_metric"])
    runs = frame.drop_duplicates(["study", "run_id"])
    runs = runs[runs["lr"].between(*_TASKSET_RATES)].sort_values("lr")
    space = {"learning_rate": {"log_uniform": list(_TASKSET_RATES)}}
    tables = []
    for number, (_, group) in enumerate(runs.groupby("study")):
        losses = group["final_metric"].astype(float).fillna(0.75).clip(upper=0.75)
        truth = losses.rolling(41, center=True, min_periods=21).mean()
        points = [{"learning_rate": float(rate)} for rate in group["lr"]]
        tables.append(
            Table(f"TaskSet-{number + 1}", space, points, [[float(v)] for v in losses], truth.tolist())
        )
    return tables


_TASKSET_RATES = (1e-7, 1.0)


def spec_of(table: Table, trials: int, seed: int, **search: Any) -> SweepSpec:
    """A sweep over a table, with one slot."""
    space = {key: dict(dimension) for key, dimension in table.space.items()}
    for key, changes in search.pop("changes", {}).items():
        space[key] |= changes
    fixed = {"batch_size": 8} if "batch_size" not in space else {}
    return from_dict(
        {
            "name": table.name.replace("/", "-"),
            "model": {"path": "org/model"},
            "data": {"train": [{"path": "org/rows"}], "validation": [{"name": "own", "fraction": 0.1}]},
            "train": {"budget": {"samples": 100_000}, "micro_batch": {"tokens": 4096}, **fixed},
            "search": {"trials": trials, "seed": seed, "space": space, **search},
        }
    )


def run_search(
    table: Table, spec: SweepSpec, seed: int, earlier: tuple[EarlierSweep, ...] = ()
) -> Iterator[tuple[dict[str, Any], float, float]]:
    """Trials of a search: params, the loss of one run (drawn from the configuration's), and the true loss."""
    proposer, rng = Proposer(spec, None, earlier=earlier), np.random.default_rng(seed)
    while (proposal := proposer.ask()) is not None:
        nearest = table.nearest(proposal.params)
        loss = float(rng.choice(table.losses[nearest]))
        proposer.tell(proposal.trial_id, "completed", loss)
        yield proposal.params, loss, float(table.means[nearest])
