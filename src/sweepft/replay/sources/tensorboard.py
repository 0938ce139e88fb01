"""TensorBoard event files, read without TensorBoard: as written by PyTorch, Lightning, Ray, Transformers and Keras."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sweepft.errors import ReplayError
from sweepft.replay.sources.cells import cell
from sweepft.replay.sources.folders import run_name
from sweepft.replay.sources.frame import Logs
from sweepft.replay.sources.hparams import read_hparams

_PARTS: Final = ("train", "validation")  # folders of one run, as Keras writes them


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
            elif number == 8 and isinstance(value, bytes):
                number_ = _tensor(value)
        if number_ is not None:
            yield Scalar(tag, step, wall_time, number_)


def _tensor(body: bytes) -> float | None:
    """The number in a tensor of floats with one element, which is how TensorFlow 2 writes scalars."""
    kind, data = 1, b""
    for number, value in _fields(body):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number in (4, 5, 6) and isinstance(value, bytes):  # content, floats, doubles
            data = value
    dtype = {1: "<f4", 2: "<f8"}.get(kind)
    if dtype is None or len(data) != np.dtype(dtype).itemsize:
        return None
    return float(np.frombuffer(data, dtype)[0])


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


def read_event_files(folder: Path, paths: Sequence[Path]) -> Logs:
    """TensorBoard scalars of each folder with event files, one column a tag."""
    by_run: dict[Path, list[tuple[str, Path]]] = {}
    for path in paths:
        run, prefix = path.parent, ""
        if (
            run.name in _PARTS
            and run != folder
            and any((run.parent / p).is_dir() for p in _PARTS if p != run.name)
        ):
            run, prefix = run.parent, f"{run.name}/"
        by_run.setdefault(run, []).append((prefix, path))
    rows: list[dict[str, Any]] = []
    for run, files in by_run.items():
        merged: dict[int, dict[str, Any]] = {}
        start, params = math.inf, read_hparams(run)
        for prefix, path in files:
            for scalar in read_scalars(path):
                start = min(start, scalar.wall_time)
                point = merged.setdefault(scalar.step, {"run_id": run_name(run, folder), **params})
                point |= {"step": scalar.step, "seconds": scalar.wall_time - start}
                point[prefix + scalar.tag] = cell(scalar.value)
        rows += [merged[s] for s in sorted(merged)]
    return Logs(pd.DataFrame(rows), "TensorBoard event files")
