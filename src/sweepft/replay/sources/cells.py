"""Numbers as logs and spreadsheets write them.

In all tables here a cell that holds NaN is the text ``nan``, and a missing value is an empty cell: the first may be a
divergence, the second says that nothing was logged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NAN: Final = "nan"
_NAN_TEXTS: Final = {"nan", "+nan", "-nan", "nan(ind)", "-nan(ind)", "1.#qnan", "-1.#ind"}
_INFINITE: Final = {"inf": math.inf, "+inf": math.inf, "-inf": -math.inf, "∞": math.inf, "-∞": -math.inf}
_INFINITE_WORDS: Final = re.compile(r"([+-]?)infinity")
_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}([,_' \u00a0\u202f]\d{3})+(\.\d*)?([eE][+-]?\d+)?")
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_CALL: Final = re.compile(r"[A-Za-z_][\w.]*\(\s*\[?([^,()\]]+)\]?.*\)")  # tensor(0.5, device='cuda:0')


def parse_number(text: str, *, decimal_comma: bool = False) -> tuple[float, bool]:
    """The number in a cell, NaN without any, and whether the cell holds NaN itself."""
    text = text.strip()
    call = _CALL.fullmatch(text)
    text = call.group(1).strip() if call else text
    low = text.lower()
    if low in _NAN_TEXTS:
        return math.nan, True
    words = _INFINITE_WORDS.fullmatch(low)
    low = f"{words.group(1)}inf" if words else low
    if low in _INFINITE:
        return _INFINITE[low], False
    if decimal_comma:
        text = text.replace(".", "").replace(",", ".")
    elif _THOUSANDS.fullmatch(text):
        text = re.sub(r"[,_' \u00a0\u202f]", "", text)
    try:
        return float(text.removesuffix("%")), False
    except ValueError:
        return math.nan, False


def numbers(column: pd.Series[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A column as floats, NaN where it has no number, and the cells that hold NaN themselves."""
    column = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    own = np.zeros(len(values), dtype=bool)
    if column.dtype.kind in "fiub":
        return values, own
    odd = np.isnan(values) & column.notna().to_numpy()
    texts = column[odd].astype(str)
    # "1,234" is a thousand, but in a column that has "0,512" too it is little more than one.
    comma = any(_DECIMAL_COMMA.fullmatch(t.strip()) and not _THOUSANDS.fullmatch(t.strip()) for t in texts)
    known = {text: parse_number(text, decimal_comma=comma and "," in text) for text in texts.unique()}
    values = values.copy()
    values[odd] = [known[t][0] for t in texts]
    own[odd] = [known[t][1] for t in texts]
    return values, own


def cell(value: Any) -> Any:
    """A value of a log as a cell: NaN as its text, lists and None as empty."""
    if isinstance(value, float) and math.isnan(value):
        return NAN
    return None if isinstance(value, list | tuple) else value


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested results as one row: keys joined by ``/``, as in Ray's and W&B's own tables."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = cell(value)
    return flat
