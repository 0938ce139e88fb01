"""Reads numbers from what people report: Python's, numpy's and torch's scalars, and arrays of one element."""

from __future__ import annotations

import math
from typing import Any


def as_number(value: Any) -> float | None:
    """The value as a float (NaN and infinity included), or None where it is no number.

    A bool is none. Text is read as a number where it spells one.
    """
    if type(value) is float:  # the usual case
        return value
    if value is None or isinstance(value, bool | bytes):
        return None
    try:
        if not isinstance(value, int | float | str) and hasattr(value, "item"):
            value = value.item()  # arrays and tensors of one element; others raise
            if isinstance(value, bool):
                return None
        return float(value)
    except Exception:
        return None


def as_count(value: Any) -> int | None:
    """The value as an integer, or None where it is no finite number."""
    number = as_number(value)
    return None if number is None or not math.isfinite(number) else int(number)
