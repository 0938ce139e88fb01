"""Folders of other trainers and trackers: Ray Tune results, Lightning's CSVLogger, MLflow's file and SQLite stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sweepft.errors import ReplayError
from sweepft.replay.sources.cells import NAN, flatten
from sweepft.replay.sources.folders import read_lines, run_name, unreadable
from sweepft.replay.sources.frame import Logs
from sweepft.replay.sources.hparams import as_config, read_hparams
from sweepft.replay.sources.tables import read_csv


def read_ray_results(folder: Path, paths: Sequence[Path]) -> Logs:
    """Ray Tune: ``result.json`` of each trial, else its ``progress.csv``; each experiment folder is a study."""
    frames = []
    trials = list(dict.fromkeys(path.parent for path in paths))
    for trial in trials:
        results = trial / "result.json"
        if results.is_file() and results.stat().st_size:
            frame = pd.DataFrame([flatten(row) for row in read_lines(results, "Ray Tune results")])
        elif (trial / "progress.csv").is_file() and (trial / "progress.csv").stat().st_size:
            frame = read_csv(trial / "progress.csv")
        else:
            continue
        params = read_hparams(trial)
        frame = frame.drop(columns=[c for c in params if c in frame])
        frame = frame.drop(
            columns=[c for c in ("experiment_id", "trial_id", "study", "run_id") if c in frame]
        )
        study = run_name(trial.parent, folder) if trial != folder else folder.name
        frames.append(frame.assign(**params, run_id=trial.name, study=study))
    if not frames:
        raise ReplayError(
            f"{folder}: its trials have no results\n  give a folder whose trials reported",
            key="replay.no_curves",
        )
    return Logs(pd.concat(frames, ignore_index=True), "Ray Tune results", empty=len(trials) - len(frames))


def read_csv_logs(folder: Path, paths: Sequence[Path]) -> Logs:
    """Lightning's CSVLogger: ``metrics.csv`` of each version, with its ``hparams.yaml``."""
    frames = [
        read_csv(path).assign(run_id=run_name(path.parent, folder), **read_hparams(path.parent))
        for path in paths
    ]
    return Logs(pd.concat(frames, ignore_index=True), "Lightning CSV logs")


# ----- MLflow --------------------------------------------------------------------------------------------


def read_mlflow_folder(folder: Path, paths: Sequence[Path]) -> Logs:
    """MLflow's file store: a folder per experiment, in it one per run with ``metrics`` and ``params``."""
    points: list[tuple[str, str, str, float, float, str]] = []
    params: dict[str, dict[str, Any]] = {}
    for meta in paths:
        run = meta.parent
        about = _yaml(meta)
        if about.get("lifecycle_stage") == "deleted" or "model_id" in about or ".trash" in meta.parts:
            continue
        experiment = (
            _yaml(run.parent / "meta.yaml").get("name") if (run.parent / "meta.yaml").is_file() else None
        )
        name, study = str(about.get("run_id") or run.name), str(experiment or run.parent.name)
        files = (
            sorted(p for p in (run / "params").rglob("*") if p.is_file()) if (run / "params").is_dir() else []
        )
        params[name] = {
            str(p.relative_to(run / "params")): p.read_text(encoding="utf-8").strip() for p in files
        }
        for path in sorted(p for p in (run / "metrics").rglob("*") if p.is_file()):
            key = str(path.relative_to(run / "metrics"))
            points += [(study, name, key, step, at, text) for at, text, step in _metric_lines(path)]
    return _mlflow_logs(folder, points, params)


def read_mlflow_database(path: Path) -> Logs:
    """MLflow's SQLite store, e.g. ``mlflow.db``.

    Raises:
        ReplayError: It is no such database.
    """
    query = """
        select e.name, m.run_uuid, m.key, m.step, m.timestamp, case when m.is_nan then 'nan' else m.value end
        from metrics m join runs r on r.run_uuid = m.run_uuid join experiments e on e.experiment_id = r.experiment_id
        where r.lifecycle_stage = 'active' order by m.run_uuid, m.step, m.timestamp
    """
    params: dict[str, dict[str, Any]] = {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            points = [
                (str(study), str(run), str(key), float(step), float(at), str(value))
                for study, run, key, step, at, value in database.execute(query)
            ]
            for run, key, value in database.execute("select run_uuid, key, value from params"):
                params.setdefault(str(run), {})[str(key)] = value
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise unreadable(path, "a database of MLflow", error) from error
    return _mlflow_logs(path, points, params)


def _mlflow_logs(
    where: Path, points: list[tuple[str, str, str, float, float, str]], params: dict[str, dict[str, Any]]
) -> Logs:
    """Rows by run and step of (study, run, metric, step, milliseconds, value as text)."""
    if not points:
        raise ReplayError(f"{where}: its runs have no metrics\n  give another store", key="replay.no_curves")
    merged: dict[tuple[str, float], dict[str, Any]] = {}
    configs = {run: as_config(found) for run, found in params.items()}
    for study, run, key, step, at, text in points:
        row = merged.setdefault(
            (run, step), {"study": study, "run_id": run, "step": step, **configs.get(run, {})}
        )
        row[key] = NAN if text.lower() == NAN else float(text)
        row.setdefault("_timestamp", at / 1000)
    empty = len(set(params) - {run for _, run, *_ in points})
    return Logs(pd.DataFrame(list(merged.values())), "MLflow runs", empty=empty)


def _metric_lines(path: Path) -> Iterator[tuple[float, str, float]]:
    """Milliseconds, value as text and step of each line of a metric's file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            yield float(parts[0]), str(float(parts[1])), float(parts[2]) if len(parts) > 2 else 0.0
        except (ValueError, IndexError) as error:
            raise unreadable(path, "a metric of MLflow", f"line {number}: {error}") from error


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise unreadable(path, "a file of MLflow", error) from error
    return found if isinstance(found, dict) else {}
