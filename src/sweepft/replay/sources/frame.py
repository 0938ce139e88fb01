"""From a table of what runs logged to `Curves`: which runs ended, which diverged, and which are left out, and why.

A row is what a run logged at a step; rows with neither loss nor objective are not rows. A run has diverged when its
loss is NaN or infinite in the source itself and no number follows. A missing value says nothing about a run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepft.errors import Problem, ReplayError
from sweepft.replay.curves import Curves, Floats, Mode, Run, Study, count_reasons
from sweepft.replay.sources.cells import numbers
from sweepft.replay.sources.names import is_param, mode_of, no_curves, plain, read_mode, resolve
from sweepft.replay.sources.params import Params

ENDED: Final = 0.95
"""A run that reached this share of the budget ran to its end."""

CUT: Final = "cut short below 95% of the budget"
NO_OBJECTIVE: Final = "without an objective"
NO_LAST: Final = "without an objective at their end"
NO_FINAL: Final = "without a final result"
EMPTY: Final = "that logged nothing"
ALONE: Final = "alone in their study"

_NUMBERS: Final = ("step", "samples", "seconds", "loss", "grad_norm", "metric", "final")


@dataclass(frozen=True)
class Logs:
    """What the runs of a source logged, in its own words.

    Attributes:
        frame: One row per logged step: ``run_id``, ``step``, all else under its name in the source, hyperparameters as
            ``config/NAME``. A cell that holds NaN is the text ``nan``; an empty one says that nothing was logged.
        kind: Of source, for people.
        all_params: Whether all hyperparameters are among the columns.
        planned: Step at which each run was to end, where the source has it.
        empty: Runs that logged nothing.
    """

    frame: pd.DataFrame
    kind: str
    all_params: bool = True
    planned: Mapping[str, float] | None = None
    empty: int = 0


def frame_to_studies(
    frame: pd.DataFrame | Logs,
    *,
    where: str,
    columns: Mapping[str, str] | None = None,
    mode: Mode | None = None,
    budget: float | None = None,
    cut_runs: bool = False,
) -> Curves:
    """Split logs into studies of runs.

    Args:
        frame: One row per logged step.
        where: Its name in errors.
        columns: Key of `COLUMNS` -> the source's column, for those with another name there.
        mode: Which way the objective is good; else the table's ``metric_mode``, else what the objective's name says.
        budget: A full run in samples (or steps); else the longest run of each study.
        cut_runs: Keep runs that were cut short, with their last objective as their result.

    Raises:
        ReplayError: A needed column is missing, the direction is unknown, or no study has two runs with a known result.
    """
    logs = frame if isinstance(frame, Logs) else Logs(frame, "table")
    table = _Table(logs, where, resolve(logs.frame, where, columns or {}), cut_runs)
    studies, omitted = [], Counter({EMPTY: logs.empty})
    directions, budgets, longest = set(), set(), set()
    for name, rows in table.studies():
        direction, known_by = table.direction(rows, mode)
        runs, left_out, full = table.runs(rows, direction, budget)
        longest.add(f"{full:g} {table.unit}")
        if len(runs) < 2:
            left_out[ALONE] += len(runs)
            omitted += left_out
            continue
        omitted += left_out
        source = table.text("source", rows) or where
        studies.append(Study(name, source, direction, full, runs, dict(left_out)))
        directions.add(f"{direction} ({known_by})")
        budgets.add(f"{full:g} {table.unit}")
    omitted = +omitted
    if not studies:
        found = f": {count_reasons(omitted)}" if omitted else ""
        full_run = f", and a full run {longest.pop()}" if len(longest) == 1 else ""
        raise ReplayError(
            f"{where}: no study has two or more runs with a known result{found}\n"
            f"  the objective read was {table.objective}{full_run}: name another objective with --column metric=NAME,"
            " give the length of a full run with --budget, or take runs that were cut short as they are with"
            " --cut-runs",
            key="replay.no_runs",
        )
    length = budgets.pop() if len(budgets) == 1 else "of each study"
    length += " (as given)" if budget else " (the longest run)" if logs.planned is None else " (as planned)"
    return Curves(
        where, logs.kind, tuple(studies), table.objective, " or ".join(sorted(directions)), length, omitted
    )


class _Table:
    """The logs with known columns as floats."""

    def __init__(self, logs: Logs, where: str, names: dict[str, str], cut_runs: bool) -> None:
        self._where, self._names, self._logs, self._cut_runs = where, names, logs, cut_runs
        self.unit = "steps"
        frame = logs.frame
        run_ids = frame[names["run"]].astype(str)
        study = pd.Series("all", index=frame.index)
        if "study" in names:
            given = frame[names["study"]].astype(str)
            # Where every run has a study of its own, that is another name of the run.
            study = given if run_ids.groupby(given).nunique().max() > 1 else study
        runs, self._run_ids = pd.factorize(run_ids)  # by number, in the order of the source
        data: dict[str, Any] = {"study": study.to_numpy(dtype=object), "run": runs}
        for key in _NUMBERS:
            data[key], data[f"nan_{key}"] = (
                numbers(frame[names[key]]) if key in names else (_empty(frame), False)
            )
            if key in ("loss", "metric") and key in names and not np.isfinite(data[key]).any():
                self._refuse_without_numbers(key)
        data["epoch"] = numbers(frame["epoch"])[0] if "epoch" in frame else _empty(frame)
        self._frame = frame.reset_index(drop=True)
        self._rows = pd.DataFrame(data)
        self._params = Params(self._frame, runs, names.values(), complete=logs.all_params)
        self._means_missing = self._nan_means_missing()

    def _refuse_without_numbers(self, key: str) -> None:
        if key == "metric" or "metric" not in self._names:
            rule = "must hold numbers, and has none"
            remedy = f"name another column with --column {key}=NAME"
            problem = Problem(self._where, f"column {self._names[key]}", rule, remedy)
            raise ReplayError(str(problem), key="replay.column")

    @property
    def objective(self) -> str:
        """Name of the objective in the source."""
        return self._names.get("metric", self._names.get("final", ""))

    def studies(self) -> list[tuple[str, pd.DataFrame]]:
        """Rows by study, in the order of the source."""
        return [(str(n), rows) for n, rows in self._rows.groupby("study", sort=False)]

    def text(self, key: str, rows: pd.DataFrame) -> str | None:
        """The first text in a column of these rows."""
        if key not in self._names:
            return None
        found = self._frame.loc[rows.index, self._names[key]].dropna()
        return str(found.iloc[0]) if len(found) else None

    def direction(self, rows: pd.DataFrame, given: Mode | None) -> tuple[Mode, str]:
        """Which way the objective is good, and how that is known."""
        by_name = [(name, mode_of(name)) for name in (self.text("metric_name", rows), self.objective) if name]
        if given is not None:
            against = next((name for name, mode in by_name if mode not in (None, given)), None)
            return given, f"as given, against the name {against}" if against else "as given"
        if "mode" in self._names:
            column = self._frame.loc[rows.index, self._names["mode"]].dropna()
            modes = {read_mode(m, where=self._where, key=self._names["mode"]) for m in column.unique()}
            if len(modes) > 1:
                rule = "must be the same in all rows of a study"
                problem = Problem(
                    self._where, self._names["mode"], rule, "give --mode", " and ".join(sorted(modes))
                )
                raise ReplayError(str(problem), key="replay.mode")
            if modes:
                return modes.pop(), f"from {self._names['mode']}"
        for name, found in by_name:
            if found:
                other = "max" if found == "min" else "min"
                return found, f"by the name {name}; --mode {other} if not"
        if plain(self.objective) in ("eval_metric", "final_metric", "objective"):
            return "min", "assumed; --mode max if more is better"
        rule = "is an objective of which it is not known whether less or more is better"
        remedy = "give --mode min or --mode max"
        problem = Problem(self._where, f"column {self.objective}", rule, remedy)
        raise ReplayError(str(problem), key="replay.mode")

    def runs(
        self, rows: pd.DataFrame, mode: Mode, budget: float | None
    ) -> tuple[list[Run], Counter[str], float]:
        """The runs of a study that have a known result, how many are left out and why, and the budget."""
        rows = rows.assign(counter=self._counter(rows, budget)).dropna(subset=["counter"])
        total = rows["run"].nunique()
        finals = rows.groupby("run")["final"].last()  # of rows without a loss too
        logged = rows[["loss", "metric"]].notna().any(axis=1) | rows["nan_loss"] | rows["nan_metric"]
        rows = rows[logged].sort_values("counter", kind="stable")
        rows = rows.assign(place=rows.index, final=rows["run"].map(finals))
        if rows.duplicated(["run", "counter"]).any():
            # One step over several rows: the last value of each column that is there.
            how = {
                c: "max" if c.startswith("nan_") else "last"
                for c in map(str, rows)
                if c not in ("run", "counter")
            }
            rows = rows.groupby(["run", "counter"], as_index=False, sort=False).agg(how)
            rows = rows.sort_values("counter", kind="stable")
        by_run = [(int(part["run"].iloc[0]), part) for _, part in rows.groupby("run", sort=True)]
        left_out = Counter({NO_OBJECTIVE: total - len(by_run)})
        if by_run and max(len(part) for _, part in by_run) < 2:
            raise no_curves(self._where)
        full = budget or float(rows["counter"].max()) if by_run else 0.0
        seen = rows.loc[np.isfinite(rows["metric"]), "counter"]
        latest = float(seen.max()) if len(seen) else 0.0
        settings, complete = self._params.of(pd.Index(rows["place"]))
        runs = []
        for number, part in by_run:
            name = str(self._run_ids[number])
            run = self._run(name, part, mode, settings[number], complete[number])
            why = self._why_not(run, part, full, latest)
            if why is None:
                runs.append(run)
            else:
                left_out[why] += 1
        return runs, +left_out, full

    def _why_not(self, run: Run, rows: pd.DataFrame, full: float, latest: float) -> str | None:
        """Why the result of a run is not known; None where it is, or where the run diverged."""
        if math.isfinite(run.final) and "final" in self._names:
            return None
        if run.bad_row is not None:
            return None
        if "final" in self._names:
            return NO_FINAL
        if not math.isfinite(run.final):
            return NO_OBJECTIVE
        if self._cut_runs:
            return None
        planned = (self._logs.planned or {}).get(run.run_id)
        reached = run.step[-1] / planned if planned else run.progress[-1] / full
        if reached < ENDED:
            return CUT
        seen = rows.loc[np.isfinite(rows["metric"]), "counter"]
        return NO_LAST if not planned and float(seen.max()) < ENDED * latest else None

    def _counter(self, rows: pd.DataFrame, budget: float | None) -> pd.Series[float]:
        """What progress is counted in: samples where known; else what most runs end at the same number of."""
        if "samples" in self._names and rows["samples"].notna().all():
            self.unit = "samples"
            return rows["samples"]
        choices = {"steps": rows["step"]}
        batch = self._batch_sizes(rows)
        if batch is not None and budget is None:
            choices["samples (step x batch size)"] = rows["step"] * batch
        epochs = rows.groupby("run")[["epoch", "step"]].nunique()
        if budget is None and rows["epoch"].notna().all() and (epochs["epoch"] >= epochs["step"]).all():
            choices["epochs"] = rows["epoch"]
        ended = {}
        for unit, counter in choices.items():
            ends = counter.groupby(rows["run"]).max()
            ended[unit] = int((ends >= ENDED * ends.max()).sum())
        self.unit = max(ended, key=lambda unit: ended[unit])
        return choices[self.unit]

    def _batch_sizes(self, rows: pd.DataFrame) -> NDArray[np.float64] | None:
        """The batch size of each row's run, where all are known and they differ."""
        if self._params.batch_size is None:
            return None
        sizes, _ = numbers(self._frame.loc[rows.index, self._params.batch_size])
        return sizes if np.isfinite(sizes).all() and np.ptp(sizes) > 0 else None

    # ----- divergence ------------------------------------------------------------------------------------

    def _nan_means_missing(self) -> bool:
        """Whether the source writes NaN where nothing was logged: a number follows one in the same run."""
        taken = set(self._names.values())
        odd = [c for c in self._frame.columns if self._frame[c].dtype.kind not in "fiubM" and c not in taken]
        flags = [(self._rows[k].to_numpy(), self._rows[f"nan_{k}"].to_numpy()) for k in ("loss", "metric")]
        if not any(own.any() for _, own in flags):
            return False
        flags += [numbers(self._frame[c]) for c in odd if not is_param(c)]
        for values, own in flags:
            if own.any():
                after = (
                    pd.Series(np.isfinite(values)).groupby(self._rows["run"].to_numpy()).transform(_any_later)
                )
                if (own & after.to_numpy(bool)).any():
                    return True
        return False

    def _bad_row(self, rows: pd.DataFrame, mode: Mode) -> int | None:
        """First row from which on the loss is NaN or infinite in the source, if no number follows."""
        keys = ["loss"] if "loss" in self._names else []
        if not keys or (mode == "min" and "loss" in plain(self.objective).split("_")):
            keys.append("metric")
        found = [self._first_bad(rows, key) for key in keys]
        return min((f for f in found if f is not None), default=None)

    def _first_bad(self, rows: pd.DataFrame, key: str) -> int | None:
        values, own = rows[key].to_numpy(float), rows[f"nan_{key}"].to_numpy(bool)
        finite = np.nonzero(np.isfinite(values))[0]
        last = int(finite[-1]) if len(finite) else -1
        bad = np.nonzero(np.isinf(values[last + 1 :]) | own[last + 1 :])[0] + last + 1
        if not len(bad):
            return None
        if np.isinf(values[bad]).any() or not self._means_missing:
            return int(bad[0])
        # NaN also stands for "not logged" here: more of it is needed than lies between two numbers elsewhere.
        progress = rows["counter"].to_numpy(float)
        usual = float(np.diff(progress[finite]).max()) if len(finite) > 1 else math.inf
        return int(bad[0]) if progress[bad[-1]] - progress[max(last, 0)] > usual else None

    # ----- runs ------------------------------------------------------------------------------------------

    def _run(self, name: str, rows: pd.DataFrame, mode: Mode, params: dict[str, Any], complete: bool) -> Run:
        bad = self._bad_row(rows, mode)
        loss, metric, progress = (rows[k].to_numpy(float) for k in ("loss", "metric", "counter"))
        loss, metric = _without_infinite(loss), _without_infinite(metric)
        seen = metric[np.isfinite(metric)]
        final = math.nan if bad is not None or not len(seen) else float(seen[-1])
        if "final" in self._names:
            final = float(rows["final"].iloc[-1])
        step, norm = rows["step"].to_numpy(float), rows["grad_norm"].to_numpy(float)
        seconds = self._seconds(rows, progress)
        return Run(
            name, params, step, progress, seconds, loss, norm, metric, final, bad, params_known=complete
        )

    def _seconds(self, rows: pd.DataFrame, progress: Floats) -> Floats:
        """Seconds since the run's start; progress stands for them where they are not known throughout."""
        seconds = rows["seconds"].to_numpy(float)
        if np.isfinite(seconds).all():
            if plain(self._names["seconds"]) in ("_timestamp", "timestamp", "wall_time") and len(seconds) > 1:
                seconds = seconds - seconds[0] + (seconds[1] - seconds[0])
            if (np.diff(seconds) >= 0).all() and seconds[-1] > 0:
                return seconds
        offset = 0.0 if progress[0] > 0 else 1.0 if len(progress) < 2 else float(progress[1] - progress[0])
        return progress + (offset if self.unit != "samples" else 0.0)


def _empty(frame: pd.DataFrame) -> Floats:
    return np.full(len(frame), math.nan)


def _any_later(finite: pd.Series[bool]) -> Sequence[bool]:
    """For each row whether one of these or a later one is True."""
    return cast("Sequence[bool]", finite.to_numpy(bool)[::-1].cumsum()[::-1] > 0)


def _without_infinite(values: Floats) -> Floats:
    return np.where(np.isinf(values), math.nan, values)
