"""The kinds of sources that can be read, in the order in which they are looked for, and `read_source`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweepft.errors import ReplayError
from sweepft.ledger import ledger_path
from sweepft.replay.curves import Curves, Mode
from sweepft.replay.sources.experiments import (
    read_csv_logs,
    read_mlflow_database,
    read_mlflow_folder,
    read_ray_results,
)
from sweepft.replay.sources.folders import unreadable
from sweepft.replay.sources.frame import Logs, frame_to_studies
from sweepft.replay.sources.run_folder import read_run_folder
from sweepft.replay.sources.tables import is_table, read_folder_of_tables, read_table
from sweepft.replay.sources.tensorboard import read_event_files
from sweepft.replay.sources.trainer import read_trainer_states


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder, recognised by the files in it.

    Attributes:
        files: Patterns of files below the folder that make it one.
        read: Given the folder and these files: what the runs logged.
        beside: A folder that must lie beside such a file.
    """

    files: tuple[str, ...]
    read: Callable[[Path, Sequence[Path]], Logs]
    beside: str = "."

    def find(self, folder: Path) -> list[Path]:
        """The files below a folder that make it one of this kind."""
        try:
            found = {p for pattern in self.files for p in folder.glob(pattern) if p.is_file()}
        except OSError as error:  # it changes meanwhile, or its names are too long
            raise unreadable(folder, "a folder that can be searched", error) from error
        return sorted(p for p in found if (p.parent / self.beside).is_dir())


FOLDERS: Final = (
    FolderKind(("**/meta.yaml",), read_mlflow_folder, beside="metrics"),
    FolderKind(("**/result.json", "**/progress.csv"), read_ray_results),
    FolderKind(("**/trainer_state.json",), read_trainer_states),
    FolderKind(("**/metrics.csv",), read_csv_logs),
    FolderKind(("**/*tfevents*",), read_event_files),
    FolderKind(("*.csv", "*.csv.gz", "*.tsv", "*.jsonl", "*.jsonl.gz", "*.parquet"), read_folder_of_tables),
)
DATABASES: Final = (".db", ".sqlite", ".sqlite3")
READABLE: Final = (
    "a run folder, a table (.csv, .tsv, .jsonl, .parquet, also .gz), a chart exported from W&B, MLflow's mlruns or"
    " mlflow.db, or a folder of Ray Tune results, Trainer states, Lightning CSV logs or TensorBoard event files"
)


def read_source(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    mode: Mode | None = None,
    budget: float | None = None,
    cut_runs: bool = False,
) -> Curves:
    """The studies at a path.

    Args:
        path: A file or folder of one of the kinds listed above.
        columns: Key of `COLUMNS` -> the source's column, tag or metric.
        mode: Which way the objective is good, where neither the source nor the objective's name says so.
        budget: A full run, in samples or steps; else the longest run.
        cut_runs: Keep runs that were cut short, with their last objective as their result.

    Raises:
        ReplayError: There is nothing that can be read.
    """
    if path.is_dir() and ledger_path(path).is_file():
        return read_run_folder(path, columns=dict(columns or {}), mode=mode, budget=budget, cut_runs=cut_runs)
    logs = _read_logs(path)
    return frame_to_studies(
        logs, where=str(path), columns=columns, mode=mode, budget=budget, cut_runs=cut_runs
    )


def _read_logs(path: Path) -> Logs:
    if is_table(path):
        return read_table(path)
    if path.is_file() and path.suffix in DATABASES:
        return read_mlflow_database(path)
    for kind in FOLDERS if path.is_dir() else ():
        found = kind.find(path)
        if found:
            return kind.read(path, found)
    raise ReplayError(f"{path}: no learning curves found\n  give {READABLE}", key="replay.no_curves")
