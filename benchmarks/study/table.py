"""Converts the study's ledgers to one table: ``python -m benchmarks.study.table RUN... --out FILE.parquet``.

The table has one row per optimizer step. Its first columns are those of the public curve collections, so that `sweepft
replay` and the stopping benchmark can read it; the other columns are specific to the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd

from sweepft.ledger import SweepState, TrialState

__all__ = ["table"]
SOURCE = "sweepft/study"
METRIC = "in-domain held-out loss (nats per target token)"


def table(runs: list[Path], partial: bool = False, name: str | None = None) -> pd.DataFrame:
    """All completed runs of the sweeps, one row per step; ``benchmarks/data/README.md`` describes the columns.

    Args:
        runs: Run folders.
        partial: Skip runs that did not complete, instead of refusing them.
        name: Name of the study; by default that of the sweep.

    Raises:
        ValueError: If a run did not complete, or has a gap in its steps.
    """
    rows: list[dict[str, Any]] = []
    for folder in runs:
        view = SweepState.load(folder)
        study = name or str(view.header["name"])
        for trial in view.trials.values():
            if trial.status == "diverged":
                continue  # it has no final metric; see the data README
            if partial and trial.status != "completed":
                continue
            if trial.status != "completed":
                raise ValueError(
                    f"{folder}: {trial.trial_id} is {trial.status}, not completed\n  resume the study first"
                )
            rows += _rows(trial, study)
    frame = pd.DataFrame(rows)
    numbers = frame.select_dtypes("float").columns
    return frame.astype(dict.fromkeys(numbers, "float32"))


def _rows(trial: TrialState, study: str) -> Iterator[dict[str, Any]]:
    history, train = trial.history, trial.train_config
    steps = [int(s) for s in history["step"]]
    if steps != list(range(1, trial.planned_steps + 1)):
        raise ValueError(
            f"{study}: {trial.trial_id} has {len(steps)} of {trial.planned_steps} steps, or a gap"
        )
    validation = {
        int(e["step"]): (float(e["objective"]), float(e["sets"]["retention"]["loss"])) for e in trial.evals
    }
    final = validation[steps[-1]]
    order = str(trial.params.get("data.strategy", "stacked"))
    for i, step in enumerate(steps):
        here = validation.get(step, (None, None))
        yield {
            "source": SOURCE,
            "study": f"sweepft/{study}",
            "run_id": f"{study}/{trial.trial_id}",
            "lr": train["learning_rate"],
            "batch_size": int(train["batch_size"]),
            "warmup": float(train["warmup"]),
            "schedule": train["schedule"],
            "weight_decay": float(train["optimizer"]["weight_decay"]),
            "other_hps": order,
            "step": step,
            "samples": int(history["samples_seen"][i]),
            "train_loss": float(history["loss"][i]),
            "grad_norm": float(history["grad_norm"][i]),
            "eval_metric": here[0],
            "final_metric": final[0],
            "metric": METRIC,
            "metric_mode": "min",
            "seed": int(train["seed"]),
            "data_order": order,
            "lr_now": float(history["lr"][i]),
            "tokens": int(history["tokens_seen"][i]),
            "eval_retention": here[1],
            "final_retention": final[1],
        }


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The parquet file to write.")
@click.option("--partial", is_flag=True, help="Write only the completed runs of an interrupted study.")
@click.option("--name", help="Name of the study.  [default: name of the sweep]")
def main(runs: tuple[Path, ...], out: Path, partial: bool, name: str | None) -> None:
    """Write the table of the sweeps in RUNS."""
    frame = table(list(runs), partial, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out, index=False, compression="zstd")
    click.echo(
        f"{out}: {frame['run_id'].nunique()} runs, {len(frame)} steps, {out.stat().st_size / 2**20:.2f} MiB"
    )


if __name__ == "__main__":
    main()
