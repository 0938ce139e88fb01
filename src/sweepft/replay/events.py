"""TensorBoard event files without TensorBoard: scalar summaries only.

A file is a sequence of records (length, checksum, protobuf message, checksum). Of the messages only wall time,
step and simple scalar values are read; a torn last record ends the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweepft.errors import ReplayError

__all__ = ["Scalar", "read_scalars"]


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
