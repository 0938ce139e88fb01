"""Files of curves in the shape in which trainers and trackers write them; each has the same runs."""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

STEPS: Final = tuple(range(5, 105, 5))
EVALUATED: Final = tuple(range(20, 101, 20))
RATES: Final = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
Rows = list[dict[str, Any]]


def name(run: int) -> str:
    """The name of a run."""
    return f"run-{run}"


def loss(run: int, step: int) -> float:
    """Training loss, at each of `STEPS`."""
    return round(1.0 + 0.1 * run + 2.0 / step, 6)


def objective(run: int, step: int) -> float:
    """Validation loss, at each of `EVALUATED`."""
    return round(loss(run, step) + 0.05, 6)


def points(run: int) -> Rows:
    """What a run logs: training rows, and after some of them an evaluation of its own row."""
    rows: Rows = []
    for step in STEPS:
        rows.append({"step": step, "loss": loss(run, step), "grad_norm": 0.5, "learning_rate": RATES[run]})
        if step in EVALUATED:
            rows.append({"step": step, "eval_loss": objective(run, step)})
    return rows


def long_rows(runs: int = len(RATES)) -> Rows:
    """One row per run and step, with both losses where both are known."""
    rows: Rows = []
    for run in range(runs):
        for step in STEPS:
            row: dict[str, Any] = {"run_id": name(run), "step": step, "train_loss": loss(run, step)}
            row |= {"eval_loss": objective(run, step) if step in EVALUATED else None, "lr": RATES[run]}
            rows.append(row)
    return rows


def write_csv(path: Path, rows: Rows, *, sep: str = ",", missing: str = "") -> Path:
    """Rows as CSV; None is an empty cell, NaN the text nan."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter=sep, restval=missing)
        writer.writeheader()
        writer.writerows({k: missing if v is None else v for k, v in row.items()} for row in rows)
    return path


def csv_table(folder: Path) -> Path:
    return write_csv(folder / "runs.csv", long_rows())


def csv_gz_table(folder: Path) -> Path:
    return write_csv(folder / "runs.csv.gz", long_rows())


def tsv_table(folder: Path) -> Path:
    return write_csv(folder / "runs.tsv", long_rows(), sep="\t")


def semicolon_table(folder: Path) -> Path:
    return write_csv(folder / "runs.csv", long_rows(), sep=";")


def jsonl_table(folder: Path) -> Path:
    path = folder / "runs.jsonl"
    rows = [{k: v for k, v in row.items() if v is not None} for row in long_rows()]
    nested = [{**row, "config": {"batch_size": 8, "optimizer": {"betas": [0.9, 0.95]}}} for row in rows]
    path.write_text("\n".join(map(json.dumps, nested)) + '\n{"run_id": "run-5", "st')  # the last line was cut
    return path


def parquet_table(folder: Path) -> Path:
    path = folder / "runs.parquet"
    pq.write_table(pa.Table.from_pylist(long_rows()), path)
    return path


def wandb_history(folder: Path) -> Path:
    """``run.history()`` of several runs in one table."""
    rows: Rows = []
    for run in range(len(RATES)):
        for count, row in enumerate(points(run)):
            out: dict[str, Any] = {
                "Name": name(run),
                "_step": count,
                "train/global_step": row["step"],
                "_runtime": 2.0 * count + 1,
            }
            out |= {
                "train/loss": row.get("loss"),
                "eval/loss": row.get("eval_loss"),
                "train/grad_norm": row.get("grad_norm"),
            }
            rows.append(out)
    return write_csv(folder / "history.csv", rows)


def wandb_chart(folder: Path) -> Path:
    """A chart's CSV as W&B's page exports it: a column a run and metric, with the bounds of each."""
    rows: Rows = []
    for step in STEPS:
        row: dict[str, Any] = {"Step": step}
        for run in range(len(RATES)):
            evaluated = objective(run, step) if step in EVALUATED else None
            for metric, value in (("train/loss", loss(run, step)), ("eval/loss", evaluated)):
                row |= {f"{name(run)} - {metric}{bound}": value for bound in ("", "__MIN", "__MAX")}
        rows.append(row)
    return write_csv(folder / "wandb_export_2026-11-01.csv", rows)


def wandb_charts(folder: Path) -> Path:
    """Two charts, one file each."""
    for metric, at, value in (("train/loss", STEPS, loss), ("eval/loss", EVALUATED, objective)):
        rows: Rows = [
            {
                "Step": step,
                **{
                    f"{name(r)} - {metric}{b}": value(r, step)
                    for r in range(len(RATES))
                    for b in ("", "__MIN", "__MAX")
                },
            }
            for step in at
        ]
        write_csv(folder / f"wandb_export_{metric.replace('/', '_')}.csv", rows)
    return folder


def csv_per_run(folder: Path) -> Path:
    """A folder with a file per run."""
    for run in range(len(RATES)):
        write_csv(folder / f"{name(run)}.csv", points(run))
    return folder


def lightning_csv(folder: Path) -> Path:
    """Lightning's CSVLogger: training and validation in rows of their own."""
    for run in range(len(RATES)):
        version = folder / "lightning_logs" / f"version_{run}"
        version.mkdir(parents=True)
        rows = [
            {"epoch": row["step"] // 50, "step": row["step"] - 1, "train_loss": row.get("loss"), "val_loss": row.get("eval_loss")}
            for row in points(run)
        ]  # fmt: skip
        write_csv(version / "metrics.csv", rows)
        (version / "hparams.yaml").write_text(yaml.safe_dump({"lr": RATES[run], "batch_size": 8}))
    return folder / "lightning_logs"


def ray_results(folder: Path, keep: tuple[str, ...] = ("result.json", "progress.csv")) -> Path:
    """Ray Tune's experiment folder."""
    experiment = folder / "ray_results" / "tune_2026"
    for run in range(len(RATES)):
        trial = experiment / f"train_{run:05d}_{run}_lr={RATES[run]}"
        trial.mkdir(parents=True)
        config = {"lr": RATES[run], "optimizer": {"name": "adamw"}}
        results: Rows = []
        for count, step in enumerate(EVALUATED, 1):
            result: dict[str, Any] = {
                "eval_loss": objective(run, step),
                "loss": loss(run, step),
                "training_iteration": count,
            }
            result |= {
                "trial_id": f"abc_{run:05d}",
                "timestamp": 1_700_000_000 + step,
                "time_total_s": float(step),
            }
            result |= {
                "done": False,
                "date": "2026-11-01_10-00-00",
                "pid": 100 + run,
                "hostname": "node",
                "config": config,
            }
            results.append(result)
        if "result.json" in keep:
            (trial / "result.json").write_text("".join(json.dumps(r) + "\n" for r in results))
        if "progress.csv" in keep:
            flat = [
                {**{k: v for k, v in r.items() if k != "config"}, "config/lr": RATES[run]} for r in results
            ]
            write_csv(trial / "progress.csv", flat)
        (trial / "params.json").write_text(json.dumps(config))
    return folder / "ray_results"


def ray_progress(folder: Path) -> Path:
    return ray_results(folder, ("progress.csv",))


def ray_json(folder: Path) -> Path:
    return ray_results(folder, ("result.json",))


def mlflow_folder(folder: Path) -> Path:
    """MLflow's file store."""
    experiment = folder / "mlruns" / "123456"
    experiment.mkdir(parents=True)
    (experiment / "meta.yaml").write_text(yaml.safe_dump({"experiment_id": "123456", "name": "my sweep"}))
    for run in range(len(RATES)):
        home = experiment / f"{run:032x}"
        about = {"run_id": home.name, "run_name": name(run), "lifecycle_stage": "active", "status": 3}
        lines: dict[str, list[str]] = {}
        for row in points(run):
            for key in ("loss", "eval_loss", "grad_norm"):
                if key in row:
                    lines.setdefault(key, []).append(
                        f"{1_700_000_000_000 + 1000 * row['step']} {row[key]} {row['step']}"
                    )
        for key, text in lines.items():
            (home / "metrics").mkdir(parents=True, exist_ok=True)
            (home / "metrics" / key).write_text("\n".join(text) + "\n")
        (home / "params").mkdir()
        (home / "params" / "learning_rate").write_text(str(RATES[run]))
        (home / "tags").mkdir()
        (home / "meta.yaml").write_text(yaml.safe_dump(about))
    return folder / "mlruns"


def mlflow_database(folder: Path) -> Path:
    """MLflow's SQLite store: the tables and columns that are read."""
    path = folder / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.executescript(
            """
            create table experiments (experiment_id integer primary key, name text, lifecycle_stage text);
            create table runs (run_uuid text primary key, name text, experiment_id integer, lifecycle_stage text, status text);
            create table metrics (key text, value real, timestamp integer, run_uuid text, step integer, is_nan boolean);
            create table params (key text, value text, run_uuid text);
            insert into experiments values (1, 'my sweep', 'active');
            """
        )
        for run in range(len(RATES)):
            database.execute(
                "insert into runs values (?, ?, 1, 'active', 'FINISHED')", (f"{run:032x}", name(run))
            )
            database.execute(
                "insert into params values ('learning_rate', ?, ?)", (str(RATES[run]), f"{run:032x}")
            )
            for row in points(run):
                for key in ("loss", "eval_loss"):
                    if key in row:
                        at = 1_700_000_000_000 + 1000 * row["step"]
                        database.execute(
                            "insert into metrics values (?, ?, ?, ?, ?, 0)", (key, row[key], at, f"{run:032x}", row["step"])
                        )  # fmt: skip
    database.close()
    return path


def trainer_states(folder: Path, metric: str = "eval_loss", **about: Any) -> Path:
    """Checkpoints of the Trainer: an older and the newest state of each run."""
    for run in range(len(RATES)):
        history = [{(metric if k == "eval_loss" else k): v for k, v in row.items()} for row in points(run)]
        history.append({"step": STEPS[-1], "train_runtime": 12.0, "train_loss": 1.5})
        for step in (50, STEPS[-1]):
            home = folder / name(run) / f"checkpoint-{step}"
            home.mkdir(parents=True)
            state = {"global_step": step, "train_batch_size": 8, "max_steps": STEPS[-1], **about}
            state["log_history"] = [row for row in history if row["step"] <= step]
            (home / "trainer_state.json").write_text(json.dumps(state))
    return folder


def event(step: int, wall_time: float, tag: str, value: float, *, tensor: bool = False) -> bytes:
    """A record of an event file; ``tensor`` as TensorFlow 2 writes scalars."""

    def chunk(number: int, body: bytes) -> bytes:
        return bytes([number << 3 | 2, len(body)]) + body

    def varint(number: int) -> bytes:
        out = b""
        while number > 127:
            out, number = out + bytes([number & 127 | 128]), number >> 7
        return out + bytes([number])

    packed = struct.pack("<f", value)
    scalar = chunk(8, b"\x08\x01" + chunk(4, packed)) if tensor else b"\x15" + packed
    summary = chunk(1, chunk(1, tag.encode()) + scalar)
    body = b"\x09" + struct.pack("<d", wall_time) + b"\x10" + varint(step) + chunk(5, summary)
    return struct.pack("<Q", len(body)) + b"\0" * 4 + body + b"\0" * 4


def write_events(folder: Path, rows: Rows, *, tensor: bool = False) -> None:
    """An event file with a scalar per key of each row."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        event(row["step"], 1e9 + row["step"], tag, value, tensor=tensor)
        for row in rows
        for tag, value in row.items()
        if tag != "step"
    ]
    (folder / "events.out.tfevents.1700000000.host").write_bytes(b"".join(records))


def _renamed(run: int, loss_tag: str, metric_tag: str) -> Rows:
    words = {"loss": loss_tag, "eval_loss": metric_tag, "step": "step"}
    return [{words[k]: v for k, v in row.items() if k in words} for row in points(run)]


def tensorboard_transformers(folder: Path) -> Path:
    for run in range(len(RATES)):
        write_events(folder / name(run), _renamed(run, "train/loss", "eval/loss"))
    return folder


def tensorboard_lightning(folder: Path) -> Path:
    for run in range(len(RATES)):
        home = folder / "lightning_logs" / f"version_{run}"
        write_events(home, _renamed(run, "train_loss", "val_loss"))
        (home / "hparams.yaml").write_text(yaml.safe_dump({"lr": RATES[run]}))
    return folder


def tensorboard_ray(folder: Path) -> Path:
    for run in range(len(RATES)):
        write_events(folder / name(run), _renamed(run, "ray/tune/loss", "ray/tune/eval_loss"))
    return folder


def tensorboard_keras(folder: Path) -> Path:
    """Keras writes a folder for training and one for validation, and scalars as tensors."""
    for run in range(len(RATES)):
        rows = points(run)
        train = [{"step": r["step"], "epoch_loss": r["loss"]} for r in rows if "loss" in r]
        validation = [{"step": r["step"], "epoch_loss": r["eval_loss"]} for r in rows if "eval_loss" in r]
        write_events(folder / name(run) / "train", train, tensor=True)
        write_events(folder / name(run) / "validation", validation, tensor=True)
    return folder


KINDS: Final[dict[str, Callable[[Path], Path]]] = {
    made.__name__: made
    for made in (
        csv_table, csv_gz_table, tsv_table, semicolon_table, jsonl_table, parquet_table, wandb_history, wandb_chart,
        wandb_charts, csv_per_run, lightning_csv, ray_results, ray_progress, ray_json, mlflow_folder, mlflow_database,
        trainer_states, tensorboard_transformers, tensorboard_lightning, tensorboard_ray, tensorboard_keras,
    )
}  # fmt: skip


def with_nan(frame: pd.DataFrame, path: Path) -> None:
    """Parquet whose NaN are values, not nulls."""
    columns = {
        c: pa.array(np.asarray(frame[c]), from_pandas=False)
        if frame[c].dtype.kind == "f"
        else pa.array(frame[c].tolist())
        for c in frame
    }
    pq.write_table(pa.table(columns), path)
