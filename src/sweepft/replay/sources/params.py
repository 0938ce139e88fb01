"""The hyperparameters of runs: which columns have them, their values, and whether all of a run's are known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepft.bounded_json import read_json
from sweepft.replay.sources.names import PARAM_PREFIX, is_param, plain

_PARAMS: Final = (
    "lr", "learning_rate", "batch_size", "warmup", "schedule", "weight_decay", "other_hps", "seed", "data_order",
)  # fmt: skip
_RATES: Final = ("lr", "learning_rate")
_BATCH_SIZES: Final = ("batch_size", "per_device_train_batch_size", "train_batch_size")
_NAMES: Final = {"lr": "learning_rate"}
_NO_PARAM: Final = {
    "final", "best", "eval", "val", "valid", "validation", "test", "train", "metric", "loss", "name",
}  # fmt: skip


class Params:
    """The hyperparameters in a frame.

    Args:
        frame: One row per logged step.
        runs: The number of each row's run.
        taken: Columns that are something else.
        complete: Whether the source has all hyperparameters.
    """

    def __init__(
        self, frame: pd.DataFrame, runs: NDArray[np.intp], taken: Iterable[str], *, complete: bool
    ) -> None:
        self._frame, self._runs, self._complete = frame, runs, complete
        self._columns = self._find(set(taken))

    def _find(self, taken: set[str]) -> list[str]:
        """Columns of hyperparameters: by their names, or constant in each run and different between runs."""
        rest = [c for c in self._frame.columns if c not in taken]
        rates: list[str] = [c for c in _RATES if c in rest]
        scheduled = set(rates) - set(self._constant(rates))  # the rate of each step is no hyperparameter
        known = [c for c in rest if (c in _PARAMS or is_param(c)) and c not in scheduled]
        if any(is_param(c) for c in known):
            return known
        others = [c for c in rest if c not in (*known, *scheduled) and self._may_be(c)]
        return known + self._constant(others)

    def _may_be(self, column: str) -> bool:
        values = self._frame[column]
        if set(plain(column).split("_")) & _NO_PARAM or values.isna().any():
            return False
        return not isinstance(values.iloc[0], list | dict | np.ndarray) and values.nunique() > 1

    def _constant(self, columns: list[str]) -> list[str]:
        """Those of the columns with one value in each run, of two rows or more."""
        if not columns or np.bincount(self._runs).max() < 2:
            return []
        counts = self._frame[columns].groupby(self._runs).nunique()
        return [c for c in columns if counts[c].max() == 1]

    @property
    def batch_size(self) -> str | None:
        """The column of the batch size."""
        return next((c for c in self._columns if PARAM_PREFIX.sub("", c) in _BATCH_SIZES), None)

    def of(self, rows: pd.Index[Any]) -> tuple[dict[int, dict[str, Any]], dict[int, bool]]:
        """The hyperparameters of the runs of these rows, by number, and whether all of them are known."""
        numbers = self._runs[rows.to_numpy()]
        if not self._columns:
            return {n: {} for n in set(numbers.tolist())}, dict.fromkeys(numbers.tolist(), self._complete)
        values = self._frame.loc[rows, self._columns].groupby(numbers, sort=False).first()
        used = [c for c in self._columns if values[c].notna().any()]
        # An empty cell is an unknown hyperparameter, unless one column has all of them as JSON.
        needed = [c for c in self._columns if "seed" not in c and (c in used or not is_param(c))]
        if _is_json(values):
            needed = [c for c in needed if c in used]
        known = values[needed].notna().all(axis=1).to_numpy() & self._complete
        names = values.index.tolist()
        records = values[used].to_dict("records")
        settings = {
            number: {_name(str(c)): _plain(v) for c, v in row.items() if pd.notna(v)}
            for number, row in zip(names, records, strict=True)
        }
        return settings, dict(zip(names, known.tolist(), strict=True))


def _name(column: str) -> str:
    return _NAMES.get(column, PARAM_PREFIX.sub("", column))


def _is_json(values: pd.DataFrame) -> bool:
    """Whether ``other_hps`` has a JSON object for every run."""
    if "other_hps" not in values:
        return False
    texts = values["other_hps"].dropna().astype(str)
    return len(texts) > 0 and all(text.startswith("{") for text in texts)


def _plain(value: Any) -> Any:
    """A hyperparameter as plain data; several in one column are often kept as JSON, and numbers as text."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, str):
        try:
            return read_json(value) if value.startswith(("{", "[")) else float(value)
        except ValueError:
            return value
    return value
