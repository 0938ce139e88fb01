"""Anything people keep learning curves in, as studies: run folders, tables, Trainer states, TensorBoard events.

What a source is, is told by what lies there; nothing needs to be converted first.
"""
# MERGED TensorBoard event files without TensorBoard: scalar summaries only.

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from sweepft.early_stopping import EarlyStopper, PriorSweeps, StopDecision, make_rule, replay_rows
from sweepft.early_stopping.audit import audit_rate
from sweepft.early_stopping.prior_sweeps import search_trials
from sweepft.errors import ReplayError
from sweepft.ledger import complete_results, ledger_path, read_ledger
from sweepft.replay.curves import Run, Study, frame_to_studies, read_table


@dataclass(frozen=True)
class Scalar:
    """One logged number."""

    tag: str
    step: int
    wall_time: float
    value: float


def read_scalars(path: Path) -> Iterator[Scalar]:
    """All scalars of an event file, in order.

    Raises:
        ReplayError: The file is not an event file.
    """
    data = path.read_bytes()
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        if len(body) < length:
            return
        try:
            yield from _event(body)
        except (ValueError, struct.error, IndexError, UnicodeDecodeError) as error:
            raise ReplayError(f"{path}: not a TensorBoard event file at byte {at}\n  remove it") from error
        at += 16 + length


def _event(body: bytes) -> Iterator[Scalar]:
    wall_time, step, values = 0.0, 0, []
    for number, value in _fields(body):
        if number == 1 and isinstance(value, bytes):
            (wall_time,) = struct.unpack("<d", value)
        elif number == 2 and isinstance(value, int):
            step = value
        elif number == 5 and isinstance(value, bytes):
            values = [v for n, v in _fields(value) if n == 1 and isinstance(v, bytes)]
    for entry in values:
        tag, number_ = "", None
        for number, value in _fields(entry):
            if number == 1 and isinstance(value, bytes):
                tag = value.decode()
            elif number == 2 and isinstance(value, bytes) and len(value) == 4:
                (number_,) = struct.unpack("<f", value)
        if number_ is not None:
            yield Scalar(tag, step, wall_time, number_)


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf fields: varints as int, the rest as bytes."""
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(body, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(body, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(body):
            raise ValueError("field beyond the end")
        yield key >> 3, body[at : at + size]
        at += size


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


Mode = Literal["min", "max"]


def read_source(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    mode: Mode | None = None,
    budget: float | None = None,
) -> list[Study]:
    """The studies at a path.

    Args:
        path: A run folder, a ``.csv`` or ``.parquet`` table, or a folder under which runs lie, each with a
            ``trainer_state.json`` or TensorBoard event files.
        columns: For tables: our name -> the table's column.
        mode: Which way the objective is good, where the source does not say.
        budget: A full run, where the source does not say.

    Raises:
        ReplayError: Nothing that can be read lies there.
    """
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return read_table(path, columns=columns, mode=mode, budget=budget)
    if ledger_path(path).is_file():
        return [rows_to_study(read_ledger(path), name=path.name or str(path), source=str(path))]
    if path.is_dir():
        for frame in (_trainer_frame(path, columns or {}), _events_frame(path, columns or {})):
            if frame is not None:
                given = {"metric": "eval_metric", "loss": "train_loss"}
                return frame_to_studies(frame, where=str(path), columns=given, mode=mode, budget=budget)
    raise ReplayError(
        f"{path}: no learning curves found\n"
        "  give a run folder, a .csv or .parquet table, or a folder of runs with trainer_state.json or"
        " TensorBoard event files"
    )


# ----- run folders ---------------------------------------------------------------------------------------


def rows_to_study(rows: Sequence[Mapping[str, Any]], *, name: str, source: str) -> Study:
    """The completed and diverged trials of a ledger; stopped ones have no end that could be compared.

    Raises:
        ReplayError: Fewer than two trials ran to their end.
    """
    budget, trials, ends = 0.0, {}, {}
    points: dict[str, dict[int, dict[str, float]]] = {}
    for row in search_trials(rows):
        kind = row["kind"]
        if kind == "sweep":
            budget = float(row["budget_samples"])
        elif kind == "trial":
            trials[row["trial_id"]] = row
        elif kind == "steps":
            history = row["history"]
            keys = [k for k in ("step", "samples_seen", "loss", "grad_norm", "seconds") if history.get(k)]
            for values in zip(*(history[k] for k in keys), strict=True):
                point = dict(zip(keys, values, strict=True))
                points.setdefault(row["trial_id"], {})[int(point["step"])] = point
        elif kind == "eval":
            steps = points.setdefault(row["trial_id"], {})
            point = steps.setdefault(
                int(row["step"]), {"step": row["step"], "samples_seen": row["samples_seen"]}
            )
            point["metric"] = _number(row["objective"])
        elif kind == "end":
            ends[row["trial_id"]] = row
    runs = [
        _ledger_run(trials[t], ends[t], points[t])
        for t in trials
        if t in points and ends.get(t, {}).get("status") in ("completed", "diverged")
    ]
    if len(runs) < 2:
        raise ReplayError(f"{source}: fewer than two trials ran to their end\n  a replay needs whole curves")
    return Study(name, source, "min", budget, runs, left_out=len(trials) - len(runs))


def _ledger_run(
    trial: Mapping[str, Any], end: Mapping[str, Any], points: Mapping[int, Mapping[str, float]]
) -> Run:
    ordered = [points[s] for s in sorted(points)]

    def column(key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([_number(p.get(key)) for p in ordered], dtype=float)

    seconds = np.cumsum(np.nan_to_num(column("seconds")))
    if not seconds.any():
        seconds = column("samples_seen")
    loss = column("loss")
    bad = np.nonzero(~np.isfinite(loss))[0].tolist() if end["status"] == "diverged" else []
    final = _number(end.get("objective")) if end["status"] == "completed" else math.nan
    return Run(
        trial["trial_id"],
        {**(trial.get("train_config") or {}), **(trial.get("params") or {})},
        column("step"),
        column("samples_seen"),
        seconds,
        loss,
        column("grad_norm"),
        column("metric"),
        final,
        bad[0] if bad else None,
        warmup_steps=int(trial.get("warmup_steps") or 0),
    )


def live_decisions(rows: Sequence[dict[str, Any]]) -> list[StopDecision]:
    """What the rule in a ledger's own spec says on its rows, in their order: the verdicts the live sweep gave.

    Results that a crash cut in two are left out, as they were when the sweep went on.

    Raises:
        ReplayError: The ledger does not begin with a ``sweep`` row.
    """
    if not rows or rows[0].get("kind") != "sweep":
        raise ReplayError("ledger: the first row must be a sweep row\n  is this a run folder of sweepft?")
    header = rows[0]
    stop = dict(header["spec"].get("early_stop") or {})
    name = stop.get("rule", "median")
    stop["audit"] = audit_rate(name, stop.get("audit"))
    history = PriorSweeps.from_dict(header.get("prior_sweeps") or {})
    keys = ("min_peers", "eta", "top_fraction", "max_false_stop_rate", "covariates", "audit")
    rule = make_rule(name, **{k: stop[k] for k in keys if k in stop}, prior_sweeps=history)
    keys = ("min_steps", "top_fraction", "audit", "max_false_discovery_rate", "keep_last", "pause")
    early_stopper = EarlyStopper(
        rule=rule,
        rungs=stop["rungs"],
        budget=float(header["budget_samples"]),
        mode="min",
        seed=int(header.get("seed") or 0),
        prior_sweeps=history,
        **{k: stop[k] for k in keys if k in stop},
    )
    return replay_rows(early_stopper, complete_results(rows)[0])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


# ----- folders of runs -----------------------------------------------------------------------------------


def _trainer_frame(folder: Path, columns: Mapping[str, str]) -> pd.DataFrame | None:
    """The newest ``trainer_state.json`` of each run under a folder, as a table."""
    newest: dict[Path, tuple[int, dict[str, Any]]] = {}
    for path in sorted(folder.rglob("trainer_state.json")):
        try:
            state = json.loads(path.read_text())
            step = int(state["global_step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReplayError(
                f"{path}: not a Trainer state: {error}\n  remove it or give another folder"
            ) from error
        run = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
        if run not in newest or step > newest[run][0]:
            newest[run] = (step, state)
    if not newest:
        return None
    metric = columns.get("metric", "eval_loss")
    rows = []
    for run, (_, state) in newest.items():
        name = str(run.relative_to(folder)) if run != folder else run.name
        merged: dict[float, dict[str, Any]] = {}
        for entry in state.get("log_history", []):
            merged.setdefault(entry["step"], {"step": entry["step"]}).update(entry)
        batch = state.get("train_batch_size")
        rows += [
            {
                "run_id": name,
                "step": point["step"],
                "train_loss": point.get("loss"),
                "grad_norm": point.get("grad_norm"),
                "eval_metric": point.get(metric),
                "batch_size": batch,
            }
            for point in merged.values()
            if "loss" in point or metric in point
        ]
    return pd.DataFrame(rows)


def _events_frame(folder: Path, columns: Mapping[str, str]) -> pd.DataFrame | None:
    """TensorBoard scalars of each folder with event files, as a table."""
    metric = columns.get("metric", "eval/loss")
    tags = {
        columns.get("loss", "train/loss"): "train_loss",
        columns.get("grad_norm", "train/grad_norm"): "grad_norm",
        metric: "eval_metric",
    }
    rows = []
    for run, paths in _event_files(folder):
        merged: dict[int, dict[str, Any]] = {}
        start = math.inf
        for path in paths:
            for scalar in read_scalars(path):
                start = min(start, scalar.wall_time)
                if scalar.tag in tags:
                    point = merged.setdefault(scalar.step, {"run_id": run, "step": scalar.step})
                    point[tags[scalar.tag]] = scalar.value
                    point["seconds"] = scalar.wall_time - start
        rows += [merged[s] for s in sorted(merged)]
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    if "eval_metric" not in frame:
        raise ReplayError(
            f"{folder}: no scalar is called {metric!r}\n  name the objective with --column metric=TAG"
        )
    return frame


def _event_files(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    by_run: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*tfevents*")):
        by_run.setdefault(path.parent, []).append(path)
    for run, paths in by_run.items():
        yield str(run.relative_to(folder)), paths
