"""One ledger row as one line of bytes, and back.

The line is ASCII JSON that ends in ``,"crc":N}``, where N is the CRC-32 of the bytes of the same row without that
part: the check covers the bytes on disk and does not depend on how a reader formats JSON.
"""

from __future__ import annotations

import gc
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, Final

import numpy as np

from sweepft.bounded_json import read_json
from sweepft.ledger.rows import NUMBER_FIELDS, Row

_CRC: Final = b',"crc":'
MOST_LINE: Final = 16 << 20
"""Bytes of a row."""

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_NON_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plain(value: Any, where: str = "value") -> Any:
    """The value in JSON's own types: numpy scalars and arrays unpacked, tuples as lists, NaN and infinity as text.

    Raises:
        TypeError: For anything JSON cannot hold; the message names the field.
    """
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else _spell(value)
    if isinstance(value, (list, tuple)):
        # Columns of numbers are most of a ledger: avoid a call for each number.
        return [v if type(v) is float and v - v == 0.0 else plain(v, where) for v in value]
    if isinstance(value, Mapping):
        return {k if type(k) is str else _key(k): plain(v, f"{where}.{k}") for k, v in value.items()}
    return plain(_simpler(value, where), where)


def encode_row(row: Row) -> bytes:
    """The row (already `plain`) as a line with its newline."""
    body = _ENCODER.encode(row).encode("ascii")
    return b"%s%s%d}\n" % (body[:-1], _CRC, zlib.crc32(body))


def decode_row(line: bytes) -> Row:
    """The row of a line (without newline), numbers restored, ``crc`` checked and left out.

    Raises:
        ValueError: If the line is not a whole, undamaged row; the message says in what way.
    """
    if len(line) > MOST_LINE:
        raise ValueError(f"it has more than {MOST_LINE >> 20} MiB")
    cut = line.rfind(_CRC)
    if cut < 0 or not line.endswith(b"}"):
        raise ValueError("not a whole row: its checksum is missing")
    digits = line[cut + len(_CRC) : -1]
    body = line[:cut] + b"}"
    if digits != b"%d" % zlib.crc32(body):
        raise ValueError("its checksum does not match")
    row = read_json(body, most=MOST_LINE, finite=True)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return as_read(row, body)


def as_read(row: Row, line: bytes) -> Row:
    """A `plain` row as its reader gets it from this line: numbers that are not finite restored."""
    if b'nan"' not in line and b'inf"' not in line:  # most rows: walking through a row is slow
        return row
    kind = row.get("kind")  # not checked yet: anything that JSON can write
    numbers = NUMBER_FIELDS.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
    return {k: _numbers(v) if k in numbers else v for k, v in row.items()}


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [
            _NON_FINITE.get(v, v) if type(v) is str else _numbers(v) if type(v) in (list, dict) else v
            for v in value
        ]
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    return value


def _simpler(value: Any, where: str) -> Any:
    """A value of a plain type that stands for one of a special type: numpy's, an enum, a path."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return base(value)
    raise TypeError(
        f"ledger row: {where}: cannot write a {type(value).__name__}; give numbers, text, lists, dicts"
    )


def _spell(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _key(key: Any) -> str:
    key = plain(key, "key")
    return key if isinstance(key, str) else json.dumps(key)


@contextmanager
def gc_paused() -> Iterator[None]:
    """While this holds, only what nothing refers to is freed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
