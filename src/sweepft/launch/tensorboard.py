"""Curves for TensorBoard, as event files under ``tensorboard/TRIAL``, written as results come.

One idea: an event file is records of (length, checksum, message, checksum), and a message of scalars is a few bytes, so
that neither TensorBoard nor torch is needed in the driver. What is tracked is a copy: the ledger is the truth.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from sweepft.recorder import Row

__all__ = ["TensorBoardFiles", "encode_event"]

_TRAIN: Final = ("loss", "grad_norm", "lr")
_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, reflected

_log = logging.getLogger(__name__)


class TensorBoardFiles:
    """Writes what trials report, as a listener of the recorder. TensorBoard's "step" is training samples.

    ``train/loss``, ``train/grad_norm`` and ``train/lr`` are of every optimizer step; ``held_out/SET`` and
    ``held_out/objective`` of every evaluation. A failure is logged and ends the tracking, not the sweep.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "tensorboard"
        self._name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._failed = False

    def on_row(self, row: Row) -> None:
        """Take one ledger row."""
        events = self._events(row)
        if not events or self._failed:
            return
        path = self._folder / row["trial_id"] / self._name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as f:
                if f.tell() == 0:
                    f.write(_record(_float64(1, row["time"]) + _bytes(3, b"brain.Event:2")))
                f.write(b"".join(events))
        except OSError as error:
            self._failed = True
            _log.warning("tensorboard files end here: file=%s error=%r", path, error)

    def _events(self, row: Row) -> list[bytes]:
        if row["kind"] == "steps":
            history = row["history"]
            columns = zip(history["samples_seen"], *(history[key] for key in _TRAIN), strict=True)
            return [
                encode_event(
                    row["time"], int(samples), {f"train/{k}": v for k, v in zip(_TRAIN, values, strict=True)}
                )
                for samples, *values in columns
            ]
        if row["kind"] == "eval":
            values = {f"held_out/{name}": found["loss"] for name, found in row["sets"].items()}
            if row["objective"] is not None:
                values["held_out/objective"] = row["objective"]
            return [encode_event(row["time"], int(row["samples_seen"]), values)]
        return []


def encode_event(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """One record of an event file: scalars of one step.

    Args:
        wall_time: Unix seconds.
        step: TensorBoard's abscissa, at least 0.
        values: By tag; written as 32-bit floats, NaN and infinities too.
    """
    entries = (_bytes(1, tag.encode()) + _float32(2, value) for tag, value in values.items())
    summary = b"".join(_bytes(1, entry) for entry in entries)
    return _record(_float64(1, wall_time) + _key(2, 0) + _varint(step) + _bytes(5, summary))


def _float32(number: int, value: float) -> bytes:
    """A field; an infinity where 32 bits cannot hold the value."""
    try:
        return _key(number, 5) + struct.pack("<f", value)
    except OverflowError:
        return _key(number, 5) + struct.pack("<f", math.copysign(math.inf, value))


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _masked_crc(length) + message + _masked_crc(message)


def _masked_crc(data: bytes) -> bytes:
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@lru_cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(entry(i) for i in range(256))


def _key(number: int, kind: int) -> bytes:
    return bytes([number << 3 | kind])


def _float64(number: int, value: float) -> bytes:
    return _key(number, 1) + struct.pack("<d", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    parts: Iterable[int] = ()
    while value > 0x7F:
        parts = (*parts, value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
