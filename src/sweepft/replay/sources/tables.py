"""Tables: CSV, TSV, JSON lines and parquet, W&B's exports of charts, and folders of such files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweepft.bounded_json import read_json
from sweepft.errors import ReplayError
from sweepft.replay.sources.cells import NAN, flatten
from sweepft.replay.sources.folders import parse_lines, read_text, unreadable
from sweepft.replay.sources.frame import Logs
from sweepft.replay.sources.names import COLUMNS, plain
from sweepft.unpacking import UNPACKING_ERRORS

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json")
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zip", ".zst")
_CHART: Final = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<bound>__MIN|__MAX)?")


def suffix_of(path: Path) -> str:
    """The suffix of a table, without that of its compression."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_table(path: Path) -> bool:
    """Whether the file's name is that of a table."""
    return path.is_file() and suffix_of(path) in SUFFIXES


def read_table(path: Path) -> Logs:
    """One table, or a chart exported from W&B.

    Raises:
        ReplayError: It cannot be read.
    """
    frame = _read(path)
    return Logs(frame, "table") if is_long(frame) else Logs(_unfold_chart(frame), "W&B chart export")


def read_folder_of_tables(folder: Path, paths: Sequence[Path]) -> Logs:
    """Tables of a folder as one: charts of W&B side by side; tables without a run's name are a run each."""
    charts, tables = [], []
    for path in paths:
        frame = _read(path)
        if not is_long(frame):
            charts.append(_unfold_chart(frame))
        elif any(plain(c) in COLUMNS["run"] for c in frame.columns):
            tables.append(frame)
        else:
            tables.append(frame.assign(run_id=path.name.split(".")[0]))
    if charts:
        joined = pd.concat(charts, ignore_index=True)
        return Logs(
            joined.groupby(["run_id", "step"], as_index=False, sort=False).last(), "W&B chart exports"
        )
    return Logs(pd.concat(tables, ignore_index=True), "tables")


def _read(path: Path) -> pd.DataFrame:
    suffix = suffix_of(path)
    try:
        if suffix in (".parquet", ".pq"):
            return _read_parquet(path)
        if suffix in (".jsonl", ".ndjson", ".json"):
            return _read_json(path)
        return read_csv(path)
    except (*UNPACKING_ERRORS, ValueError, pa.ArrowException) as error:
        raise unreadable(path, "a table", error) from error


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV as texts: an empty cell is missing, the text ``nan`` stays what it is.

    Raises:
        ReplayError: It cannot be read.
    """
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            header = pd.read_csv(path, nrows=0, encoding=encoding)
            line = str(header.columns[0]) if len(header.columns) == 1 else ","
            separator = "\t" if suffix_of(path) == ".tsv" else max(",;\t|", key=line.count)
            frame = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding=encoding
            )
            break
        except UnicodeDecodeError:
            continue
        except (OSError, ValueError, EOFError) as error:  # pandas' own errors are ValueErrors
            raise unreadable(path, "a table", error) from error
    return frame.rename(columns=lambda c: str(c).strip())


def _read_parquet(path: Path) -> pd.DataFrame:
    """A parquet file; NaN in it, unlike a null, becomes the text ``nan``."""
    table = pq.read_table(path)
    frame: pd.DataFrame = table.to_pandas()
    for name in table.column_names:
        column = table[name]
        if pa.types.is_floating(column.type):
            own = pc.is_nan(column).fill_null(False).to_numpy()
            if own.any() and name in frame:
                texts = frame[name].astype(object)
                texts[own] = NAN
                frame[name] = texts
    return frame.reset_index(drop=True)


def _read_json(path: Path) -> pd.DataFrame:
    """JSON objects, one a line or in one list."""
    text = read_text(path)
    rows = (
        read_json(text) if text.lstrip().startswith("[") else parse_lines(text, path, "a table of JSON lines")
    )
    return pd.DataFrame([flatten(row) for row in rows if isinstance(row, dict)])


# ----- charts exported from W&B --------------------------------------------------------------------------


def is_long(frame: pd.DataFrame) -> bool:
    """Whether the table has a row per run and step: not W&B's columns ``RUN - METRIC`` beside a step."""
    columns = [str(c) for c in frame.columns]
    wide = [c for c in columns[1:] if _CHART.fullmatch(c)]
    return not wide or any(plain(c) in COLUMNS["run"] for c in columns)


def _unfold_chart(frame: pd.DataFrame) -> pd.DataFrame:
    """W&B's columns ``RUN - METRIC`` as rows of a run and step; the bounds of groups are left out."""
    axis = frame.columns[0]
    parts: dict[str, dict[str, Any]] = {}
    for column in frame.columns[1:]:
        found = _CHART.fullmatch(str(column))
        if found and not found["bound"]:
            parts.setdefault(found["run"], {})[found["metric"]] = frame[column]
    if not parts:
        raise ReplayError("the chart has no runs\n  export it again", key="replay.no_curves")
    long = [pd.DataFrame({"run_id": run, "step": frame[axis], **metrics}) for run, metrics in parts.items()]
    joined = pd.concat(long, ignore_index=True)
    values = [c for c in joined.columns if c not in ("run_id", "step")]
    return joined[np.asarray(joined[values].notna().any(axis=1))].reset_index(drop=True)
