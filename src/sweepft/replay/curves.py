"""Recorded runs as a replay needs them, and how they are read from tables of learning curves.

A table (CSV or parquet) has one row per logged step. The columns of public curve collections are known; others are
mapped by name. A run with no finite value in its last rows has diverged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepft.early_stopping import Observation, Report, Rung
from sweepft.errors import Problem, ReplayError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One recorded run; arrays are of equal length, in order of progress, NaN where nothing was logged.

    Attributes:
        run_id: Its name.
        params: Its hyperparameters.
        step: Optimizer steps.
        progress: In the study's unit (samples where known, else steps).
        seconds: Time since the run's start, at each row; only ratios matter.
        loss: Training loss.
        grad_norm: Gradient norm.
        metric: The objective on validation data.
        final: The objective the run ended with; NaN when it diverged.
        bad_row: First row at which the run was no longer finite, or None.
        blocks: By row, training loss and target tokens of the blocks of the sample order completed there.
        data_order: Digest of the sample order.
        warmup_steps: Its warmup.
    """

    run_id: str
    params: dict[str, Any]
    step: Floats
    progress: Floats
    seconds: Floats
    loss: Floats
    grad_norm: Floats
    metric: Floats
    final: float
    bad_row: int | None = None
    blocks: dict[int, dict[int, tuple[float, float]]] = field(default_factory=dict)
    data_order: str | None = None
    warmup_steps: int = 0

    @property
    def cost(self) -> float:
        """Seconds of the whole run."""
        return float(self.seconds[-1])

    @cached_property
    def observations(self) -> list[Observation]:
        """Its rows as observations."""
        columns = zip(
            self.step.tolist(),
            self.progress.tolist(),
            self.loss.tolist(),
            self.grad_norm.tolist(),
            self.metric.tolist(),
            strict=True,
        )
        return [Observation(int(s), p, lo, g, m) for s, p, lo, g, m in columns]

    def report(self, start: int, stop: int) -> Report:
        """Rows ``start`` to ``stop`` (not included) as one report."""
        bad = None
        if self.bad_row is not None and start <= self.bad_row < stop:
            bad = f"a value is not finite at step {int(self.step[self.bad_row])}"
        blocks: dict[int, tuple[float, float]] = {}
        for row in range(start, stop) if self.blocks else ():
            blocks.update(self.blocks.get(row, {}))
        return Report(self.observations[start:stop], blocks, self.data_order, self.warmup_steps, bad)


@dataclass(frozen=True)
class Study:
    """Runs that may be compared.

    Attributes:
        name: The study's name.
        source: Where it comes from.
        mode: ``min`` or ``max``: which way the objective is good.
        budget: A full run, in units of ``progress``.
        runs: Two or more.
        left_out: Runs of the source without a known result, which cannot be replayed.
    """

    name: str
    source: str
    mode: Literal["min", "max"]
    budget: float
    runs: Sequence[Run]
    left_out: int = 0

    @cached_property
    def values(self) -> Floats:
        """Final objectives, larger is better; a diverged run is worst of all."""
        sign = 1.0 if self.mode == "max" else -1.0
        finals = np.array([sign * r.final for r in self.runs], dtype=float)
        return np.where(np.isfinite(finals), finals, -math.inf)

    def report_points(self, run: Run, rungs: Sequence[Rung] = (), every: float = 0.05) -> list[int]:
        """Rows (as one past their index) at which the run reports: at each rung and each ``every`` of the budget.

        Args:
            run: One of the study's runs.
            rungs: Of a fraction of the budget or a number of samples; those in steps are left out.
            every: Share of the budget between reports.
        """
        fractions = [Rung("fraction", f) for f in np.arange(every, 1.0, every).tolist()]
        at = [r.threshold(self.budget) for r in (*fractions, *rungs) if r.kind != "steps"]
        ends = np.searchsorted(run.progress, np.unique(at), side="left") + 1
        return sorted({int(e) for e in ends if e < len(run.progress)} | {len(run.progress)})

    def sample(self, runs: int, seed: int) -> Study:
        """The study of so many of its runs, in a random order; the budget stays."""
        picked = np.random.default_rng(seed).permutation(len(self.runs))[:runs].tolist()
        return Study(self.name, self.source, self.mode, self.budget, [self.runs[i] for i in picked])


COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "study": ("study", "experiment", "sweep"),
    "run": ("run_id", "run", "trial_id", "trial", "id"),
    "step": ("step", "global_step", "training_iteration", "epoch"),
    "samples": ("samples", "samples_seen"),
    "seconds": ("seconds", "time_total_s", "elapsed", "wall_seconds"),
    "loss": ("train_loss", "loss", "train/loss"),
    "grad_norm": ("grad_norm", "train/grad_norm"),
    "metric": ("eval_metric", "eval_loss", "eval/loss", "val_loss", "valid_loss", "validation_loss"),
    "final": ("final_metric",),
    "mode": ("metric_mode",),
    "source": ("source",),
}

_PARAMS: Final = ("lr", "learning_rate", "batch_size", "warmup", "schedule", "weight_decay", "other_hps")
_PARAM_NAMES: Final = {"lr": "learning_rate"}


def read_table(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    mode: Literal["min", "max"] | None = None,
    budget: float | None = None,
) -> list[Study]:
    """The studies of a table; see `frame_to_studies`.

    Raises:
        ReplayError: The file cannot be read, or a needed column is missing.
    """
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ReplayError(
            f"{path}: cannot be read as a table: {error}\n  give a .csv or .parquet file",
            key="replay.unreadable",
        ) from error
    return frame_to_studies(frame, where=str(path), columns=columns, mode=mode, budget=budget)


def frame_to_studies(
    frame: pd.DataFrame,
    *,
    where: str,
    columns: Mapping[str, str] | None = None,
    mode: Literal["min", "max"] | None = None,
    budget: float | None = None,
) -> list[Study]:
    """Split a frame into studies of runs.

    Args:
        frame: One row per logged step.
        where: Its name in errors.
        columns: Key of `COLUMNS` -> the table's column, for those with another name there.
        mode: Which way the objective is good; else the table's ``metric_mode``, else ``min``.
        budget: A full run in samples (or steps); else the longest run of each study.

    Raises:
        ReplayError: A needed column is missing, or a study has fewer than two runs with an objective.
    """
    names = _resolve(frame, where, columns or {})
    params = [c for c in _PARAMS if c in frame.columns and c not in names.values()]
    params += [c for c in frame.columns if str(c).startswith("config/")]
    groups = (
        frame.groupby(names["study"], observed=True, sort=False) if "study" in names else [("all", frame)]
    )
    studies = []
    for name, part in groups:
        direction = mode or (str(part[names["mode"]].iloc[0]) if "mode" in names else "min")
        source = str(part[names["source"]].iloc[0]) if "source" in names else where
        counter = _counter(part, names)
        runs = []
        for run_id, rows in part.groupby(names["run"], observed=True, sort=False):
            run = _run(str(run_id), rows, names, params, counter)
            if run is not None:
                runs.append(run)
        if len(runs) < 2:
            continue
        top = budget or max(float(r.progress[-1]) for r in runs)
        mode_ = "max" if direction == "max" else "min"
        studies.append(Study(str(name), source, mode_, top, runs))  # type: ignore[arg-type]
    if not studies:
        raise ReplayError(
            f"{where}: no study has two or more runs with an objective\n  check the columns",
            key="replay.no_runs",
        )
    return studies


def _resolve(frame: pd.DataFrame, where: str, given: Mapping[str, str]) -> dict[str, str]:
    names = {}
    has = f"it has: {', '.join(map(str, frame.columns))}"
    for ours, usual in COLUMNS.items():
        wanted = (given[ours],) if ours in given else usual
        found = next((c for c in wanted if c in frame.columns), None)
        if found is not None:
            names[ours] = found
        elif ours in given:
            rule = "must name a column of the table"
            raise _column_error(Problem(where, f"--column {ours}", rule, has, given[ours]))
    for needed in ("run", "step", "metric"):
        if needed not in names:
            rule = f"one of the columns {', '.join(COLUMNS[needed])} is needed"
            raise _column_error(Problem(where, needed, rule, f"map it with --column {needed}=NAME; {has}"))
    return names


def _column_error(problem: Problem) -> ReplayError:
    return ReplayError(str(problem), key="replay.column")


def _counter(part: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Progress is in samples when every row has them, else in steps."""
    if "samples" in names and part[names["samples"]].notna().all():
        return names["samples"]
    return names["step"]


def _run(
    run_id: str, rows: pd.DataFrame, names: Mapping[str, str], params: list[str], counter: str
) -> Run | None:
    def column(key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        if key not in names:
            return np.full(len(rows), math.nan)
        return pd.to_numeric(rows[names[key]], errors="coerce").to_numpy(dtype=float)

    rows = rows.dropna(subset=[counter]).sort_values(counter, kind="stable")
    rows = (
        rows.groupby(counter, as_index=False, sort=True).last() if rows[counter].duplicated().any() else rows
    )
    if rows.empty:
        return None
    progress = rows[counter].to_numpy(dtype=float)
    loss, norm, metric, step = column("loss"), column("grad_norm"), column("metric"), column("step")
    offset = 0.0 if progress[0] > 0 else 1.0 if len(progress) < 2 else float(progress[1] - progress[0])
    seconds = column("seconds")
    if not np.isfinite(seconds).all():
        seconds = progress + (offset if counter == names["step"] else 0.0)
    bad = _bad_row(loss, metric)
    if "final" in names:
        final = float(pd.to_numeric(rows[names["final"]], errors="coerce").iloc[-1])
    elif bad is not None:
        final = math.nan
    else:
        seen = metric[np.isfinite(metric)]
        final = float(seen[-1]) if len(seen) else math.nan
    settings = {
        _PARAM_NAMES.get(c, c.removeprefix("config/")): _setting(rows[c].iloc[0])
        for c in params
        if pd.notna(rows[c].iloc[0])
    }
    return Run(run_id, settings, step, progress, seconds, loss, norm, metric, final, bad)


def _setting(value: Any) -> Any:
    """A hyperparameter as plain data; several in one column are often kept as JSON."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _bad_row(*columns: np.ndarray[Any, Any]) -> int | None:
    """First row with an infinite loss or objective, or after which neither is finite again."""
    infinite = np.logical_or.reduce([np.isinf(c) for c in columns])
    alive = np.logical_or.reduce([np.isfinite(c) for c in columns])
    last = int(np.nonzero(alive)[0][-1]) if alive.any() else -1
    bad = [int(np.nonzero(infinite)[0][0])] if infinite.any() else []
    if alive.any() and last + 1 < len(alive):
        bad.append(last + 1)
    return min(bad) if bad else None
