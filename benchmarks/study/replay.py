"""Replays the early-stopping rules on the study's runs, and writes savings and regret to ``study-replay.json``.

The replays are those of the stopping benchmark, on this study, with the figures for the findings page.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import pandas as pd
from benchmarks.study.effects import rungs_of, runs_of, seed_noise
from benchmarks.study.findings import REPLAYED, TABLE

from sweepft.replay.runner import Replay, replay_all
from sweepft.replay.score import mean_scores
from sweepft.replay.sources import frame_to_studies

RULES = [
    "random",
    "median",
    "recipe",
    "asha",
    "calibrated",
    "ray-asha",
    "ray-hyperband",
    "ray-median",
    "optuna-median",
    "oracle",
]


@click.command()
@click.option("--table", type=click.Path(exists=True, path_type=Path), default=TABLE, show_default=True)
@click.option("--orders", default=100, show_default=True)
@click.option("--group", default=24, show_default=True, help="Runs per sweep, drawn from the study's.")
def main(table: Path, orders: int, group: int) -> None:
    """Replay the study's runs."""
    warnings.filterwarnings("ignore")  # Ray's and Optuna's warnings about their own schedulers
    frame = pd.read_parquet(table)
    frame = frame[~frame["study"].str.contains("phased")]
    (study,) = frame_to_studies(frame, where=str(table))
    noise = seed_noise(runs_of(frame), "in_domain")[0]
    settings = Replay(orders=orders, group=group, noise=noise, rungs=tuple(rungs_of(frame)))
    rows = replay_all([study], RULES, settings)
    figures = []
    for row in rows:
        score = mean_scores([row.score])
        names = ("saved", "best_kept", "best_kept_within_noise", "false_stop", "regret")
        figures.append({"rule": row.rule} | {n: round(float(getattr(score, n)), 5) for n in names})
    REPLAYED.write_text(
        json.dumps({"orders": orders, "group": group, "noise": noise, "rows": figures}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
