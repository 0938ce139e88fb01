"""Small compressed files that unpack to large ones, and lines without an end."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.errors import raises
from sweepft import unpacking
from sweepft.data import file_kinds
from sweepft.data.read import read_source
from sweepft.errors import DataError
from sweepft.evaluation.mt_bench.questions import read_questions
from sweepft.unpacking import TooLarge, bounded, lines_of


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_SMALL", 1 << 20)
    monkeypatch.setattr(unpacking, "_RATIO", 1)
    monkeypatch.setattr(unpacking, "MOST_LINE", 1 << 18)
    monkeypatch.setattr(file_kinds, "_SMALL_TABLE", 1 << 20)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a.jsonl.gz": lambda: gzip.compress(b'{"text": "' + b"a" * (1 << 26)),
    "b.jsonl.gz": lambda: gzip.compress(b"\n" * (1 << 26)),
    "c.jsonl.gz": lambda: gzip.compress((b'{"text": "' + b"a" * 1000 + b'"}\n') * 1100),
    "d.json.bz2": lambda: bz2.compress(b"[" + b" " * (1 << 26)),
    "e.csv.xz": lambda: lzma.compress(
        b"text\n" + b"a" * 200_000 + b"\n" + b"b" * 200_000 + b"\n" + b"c" * 200_000 + b"\n" + b"d" * 500_000
    ),
    "f.csv": lambda: ",".join(f"c{i}" for i in range(20_000)).encode() + b"\n",
    "g.json": lambda: b"[" + b"[]," * 1_500_000 + b"[]]",
    "h.csv": lambda: b"text\n" + b"a" * (1 << 20),
    "i.tsv": lambda: b"text\tx\n" + b"\n" * 1_500_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_read_source__refuses_bombs(name: str, tmp_path: Path, small: None) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    with raises(DataError, "file"):
        read_source(str(tmp_path / name))


def test_read_source__refuses_a_table_of_one_text_repeated(tmp_path: Path, small: None) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["x" * 100])
    pq.write_table(pa.table({"text": column.cast(pa.string())}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with raises(DataError, "file"):
        read_source(str(tmp_path / "a.parquet"))


def test_bounded__reads_what_fits(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"one\n\ntwo"))
    with bounded(gzip.open(file), file) as stream:  # type: ignore[arg-type]
        assert list(lines_of(stream)) == [(1, b"one\n"), (2, b"\n"), (3, b"two")]
    with pytest.raises(TooLarge):
        list(lines_of(io.BytesIO(b"\n" * 1_000_002)))


def test_read_source__refuses_half_characters_deep_rows_and_odd_domains(tmp_path: Path) -> None:
    rows = ['{"text": "\\ud800"}', '{"text": "a", "x": ' + "[" * 200 + "]" * 200 + "}"]
    rows.append(json.dumps({"text": "a", "domain": "\x1b]0;x\x07"}))
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, '{"text": "\\ud83d\\ude00"}']))
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path / "a.jsonl"))
    assert caught.value.keys == ("text", "row", "domain")
    (tmp_path / "b.json").write_text("[" + ",".join(rows[:2]) + "]")
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path / "b.json"))
    assert caught.value.keys == ("text", "row")


@pytest.mark.parametrize(
    "damage",
    [b"\x1f\x8bxx", b"", gzip.compress(b'{"a": 1}' * 1000)[:-40], b"\xff" * 50],
    ids=["two bytes", "empty", "cut", "no text"],
)
def test_read_questions__of_damaged_files_are_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl.gz").write_bytes(damage)
    with raises(DataError, "file"):
        read_questions(tmp_path / "q.jsonl.gz")


def test_read_source__a_table_whose_indices_lead_nowhere(tmp_path: Path) -> None:
    """pyarrow raises an IndexError of its own for it, when the rows are read."""
    indices = pa.array([5, 6], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["a"]), safe=False)
    table = pa.table({"text": column})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with raises(DataError, "file"):
        read_source(str(tmp_path / "a.arrow"))
