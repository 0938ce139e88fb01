"""Event files hold every step and evaluation of the ledger, as TensorBoard's own readers read them."""

from __future__ import annotations

import logging
import math
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepft.launch.tensorboard import TensorBoardFiles, encode_event
from sweepft.replay.events import read_scalars

STEPS = {
    "kind": "steps", "trial_id": "t000", "time": 1000.5,
    "history": {
        "step": [1, 2], "samples_seen": [8, 16], "loss": [2.5, math.nan], "grad_norm": [1.0, math.inf],
        "lr": [1e-3, 2e-3], "tokens_seen": [10, 20], "seconds": [0.1, 0.1],
    },
}  # fmt: skip
EVAL = {
    "kind": "eval", "trial_id": "t000", "time": 1001.0, "step": 2, "samples_seen": 16, "objective": 2.25,
    "sets": {"own": {"loss": 2.25}, "general": {"loss": 3.5}},
}  # fmt: skip


def written(folder: Path) -> list[tuple[str, int, float]]:
    (file,) = (folder / "tensorboard/t000").iterdir()
    return [(s.tag, s.step, s.value) for s in read_scalars(file)]


def test_every_step_and_evaluation_is_there_once_against_samples(tmp_path: Path) -> None:
    files = TensorBoardFiles(tmp_path)
    for row in (STEPS, EVAL, {"kind": "end", "trial_id": "t000"}):
        files.on_row(row)
    found = written(tmp_path)
    assert [(tag, step) for tag, step, _ in found] == [
        ("train/loss", 8), ("train/grad_norm", 8), ("train/lr", 8),
        ("train/loss", 16), ("train/grad_norm", 16), ("train/lr", 16),
        ("held_out/own", 16), ("held_out/general", 16), ("held_out/objective", 16),
    ]  # fmt: skip
    values = [v for _, _, v in found]
    assert values[:3] == [2.5, 1.0, pytest.approx(1e-3)]
    assert math.isnan(values[3])
    assert values[4] == math.inf
    assert values[6:] == [2.25, 3.5, 2.25]


def test_tensorboards_checksums_are_right() -> None:
    """TensorBoard takes no record without its masked CRC-32C."""
    record = encode_event(1.5, 300, {"a/b": 0.25})
    (length,) = struct.unpack_from("<Q", record)
    message = record[12 : 12 + length]
    assert record[8:12] == _reference_crc(record[:8])
    assert record[12 + length :] == _reference_crc(message)


def _reference_crc(data: bytes) -> bytes:
    """Bit by bit, from the definition of CRC-32C and of TFRecord's mask."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def test_the_reference_checksum_is_crc32c() -> None:
    masked = struct.unpack("<I", _reference_crc(b"123456789"))[0]
    crc = ((masked - 0xA282EAD8) % 2**32) >> 17 | (((masked - 0xA282EAD8) % 2**32) << 15) & 0xFFFFFFFF
    assert crc == 0xE3069283, "the check value of the standard"


@given(
    st.integers(0, 2**60), st.dictionaries(st.text(min_size=1, max_size=300), st.floats(width=32), max_size=5)
)
def test_any_scalars_come_back(step: int, values: dict[str, float]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(encode_event(2.5, step, values))
        file.flush()
        found = list(read_scalars(Path(file.name)))
    assert [(s.tag, s.step, s.wall_time) for s in found] == [(tag, step, 2.5) for tag in values]
    for scalar, value in zip(found, values.values(), strict=True):
        assert scalar.value == value or (math.isnan(scalar.value) and math.isnan(value))


def test_a_value_beyond_32_bits_is_an_infinity(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_bytes(encode_event(0.0, 1, {"a": 1e300, "b": -1e300}))
    assert [s.value for s in read_scalars(file)] == [math.inf, -math.inf]


def test_a_failure_is_logged_once_and_ends_nothing_but_the_tracking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    files = TensorBoardFiles(tmp_path)
    with caplog.at_level(logging.WARNING):
        files.on_row(STEPS)
        files.on_row(EVAL)
    assert caplog.text.count("tensorboard files end here") == 1
