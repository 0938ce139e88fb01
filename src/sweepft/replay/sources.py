"""Reads recorded runs from wherever people keep them: run folders, tables, Trainer states, TensorBoard event files.

The kind of a source is recognised by its files; nothing needs to be converted first.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from sweepft.early_stopping import EarlyStopper, PriorSweeps, StopDecision, make_rule, replay_state
from sweepft.early_stopping.audit import audit_rate
from sweepft.errors import ReplayError
from sweepft.ledger import SweepState, TrialState, ledger_path
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
            raise ReplayError(
                f"{path}: not a TensorBoard event file at byte {at}\n  remove it", key="replay.unreadable"
            ) from error
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
        path: A run folder, a ``.csv`` or ``.parquet`` table, or a folder of runs, each with a ``trainer_state.json`` or
            TensorBoard event files.
        columns: For tables: key of `COLUMNS` -> the table's column.
        mode: Which way the objective is good, where the source does not contain it.
        budget: A full run, where the source does not contain it.

    Raises:
        ReplayError: There is nothing that can be read.
    """
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return read_table(path, columns=columns, mode=mode, budget=budget)
    if ledger_path(path).is_file():
        return [state_to_study(SweepState.load(path), name=path.name or str(path), source=str(path))]
    if path.is_dir():
        for frame in (_trainer_frame(path, columns or {}), _events_frame(path, columns or {})):
            if frame is not None:
                given = {"metric": "eval_metric", "loss": "train_loss"}
                return frame_to_studies(frame, where=str(path), columns=given, mode=mode, budget=budget)
    raise ReplayError(
        f"{path}: no learning curves found\n"
        "  give a run folder, a .csv or .parquet table, or a folder of runs with trainer_state.json or"
        " TensorBoard event files",
        key="replay.no_curves",
    )


# ----- run folders ---------------------------------------------------------------------------------------


def state_to_study(state: SweepState, *, name: str, source: str) -> Study:
    """The completed and diverged trials of a sweep; stopped trials have no final value to compare.

    Raises:
        ReplayError: If fewer than two trials ran to their end.
    """
    trials = state.search_trials
    ended = [t for t in trials if t.status in ("completed", "diverged") and t.reports]
    if len(ended) < 2:
        raise ReplayError(
            f"{source}: fewer than two trials ran to their end\n  a replay needs whole curves",
            key="replay.no_runs",
        )
    runs = [_ledger_run(trial) for trial in ended]
    return Study(name, source, "min", float(state.budget_samples), runs, left_out=len(trials) - len(runs))


def _ledger_run(trial: TrialState) -> Run:
    history = trial.history
    metric = {int(row["step"]): _number(row["objective"]) for row in trial.evals}
    metrics = np.array([metric.get(int(step), math.nan) for step in history["step"]], dtype=float)
    seconds = np.cumsum(np.nan_to_num(history["seconds"]))
    bad = np.nonzero(~np.isfinite(history["loss"]))[0].tolist() if trial.status == "diverged" else []
    return Run(
        trial.trial_id,
        {**trial.train_config, **trial.params},
        history["step"],
        history["samples_seen"],
        seconds if seconds.any() else history["samples_seen"],
        history["loss"],
        history["grad_norm"],
        metrics,
        _number(trial.objective),
        bad[0] if bad else None,
        warmup_steps=trial.warmup_steps,
    )


def live_decisions(state: SweepState) -> list[StopDecision]:
    """What the rule of a sweep's own spec decides on its reports: the decisions of the live sweep.

    Raises:
        ReplayError: If the ledger is empty.
    """
    if not state.header:
        raise ReplayError(
            "ledger: it has no sweep row\n  give the run folder of a sweep that has started",
            key="replay.no_curves",
        )
    state.drop_partial_results()
    stop = dict(state.header["spec"].get("early_stop") or {})
    name = stop.get("rule", "median")
    stop["audit"] = audit_rate(name, stop.get("audit"))
    prior_sweeps = PriorSweeps.from_dict(state.header.get("prior_sweeps") or {})
    keys = ("min_peers", "eta", "top_fraction", "max_false_stop_rate", "covariates", "audit")
    rule = make_rule(name, **{k: stop[k] for k in keys if k in stop}, prior_sweeps=prior_sweeps)
    keys = ("min_steps", "top_fraction", "audit", "max_false_discovery_rate", "keep_last", "pause")
    early_stopper = EarlyStopper(
        rule=rule,
        rungs=stop["rungs"],
        budget=float(state.budget_samples),
        mode="min",
        seed=int(state.header.get("seed") or 0),
        prior_sweeps=prior_sweeps,
        **{k: stop[k] for k in keys if k in stop},
    )
    return replay_state(early_stopper, state)


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
                f"{path}: not a Trainer state: {error}\n  remove it or give another folder",
                key="replay.unreadable",
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
            f"{folder}: no scalar is called {metric!r}\n  name the objective with --column metric=TAG",
            key="replay.column",
        )
    return frame


def _event_files(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    by_run: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*tfevents*")):
        by_run.setdefault(path.parent, []).append(path)
    for run, paths in by_run.items():
        yield str(run.relative_to(folder)), paths
