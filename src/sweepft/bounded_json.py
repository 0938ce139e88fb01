"""Reads JSON from files of others: bounded in size and depth, and with one error for everything that is wrong."""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any, Final

from sweepft.files import open_to_read

MOST_BYTES: Final = 64 << 20
MOST_DEPTH: Final = 64

_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_HUGE: Final = re.compile(r"[eE]\+?\d{3}|\d{300}")


def read_json(
    data: bytes | str, *, most: int = MOST_BYTES, depth: int = MOST_DEPTH, finite: bool = False
) -> Any:
    """The value of a JSON text.

    Args:
        data: UTF-8 if it is bytes.
        most: Largest size in bytes (characters of a text).
        depth: Most lists and objects within each other.
        finite: Whether NaN and numbers that are infinite as floats are refused.
    Raises:
        ValueError: If it is no JSON, is larger or deeper, or holds a number that is not finite.
    """
    if len(data) > most:
        raise ValueError(f"more than {most} bytes of JSON")
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    if text.count("[") + text.count("{") > depth and _depth(text) > depth:
        raise ValueError(f"more than {depth} lists and objects within each other")
    numbers = _finite if finite and _HUGE.search(text) else None
    try:
        return json.loads(text, parse_float=numbers, parse_constant=_finite if finite else None)
    except RecursionError:  # of a damaged text, in which brackets cannot be matched
        raise ValueError("too many lists and objects within each other") from None


def read_json_file(
    path: str | os.PathLike[str], *, most: int = MOST_BYTES, links: bool = True, finite: bool = False
) -> Any:
    """The value in a JSON file.

    Args:
        path: A regular file.
        most: Largest size in bytes.
        links: Whether a symbolic link is followed.
        finite: See `read_json`.
    Raises:
        OSError: If it is not a regular file, or cannot be read.
        ValueError: See `read_json`.
    """
    with open_to_read(path, links=links) as file:
        return read_json(file.read(most + 1), most=most, finite=finite)


def _depth(text: str) -> int:
    """Most brackets that are open at once; those in strings do not count."""
    depth = most = 0
    for found in _BRACKETS.finditer(text):
        match found[0][0]:
            case "[" | "{":
                depth += 1
                most = max(most, depth)
            case "]" | "}":
                depth -= 1
    return most


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number
