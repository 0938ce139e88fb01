"""Kinds of data files: JSON, CSV, Parquet and Arrow, each also compressed, and what other files are.

A file is unpacked by its content. One in another encoding or format than its name says is refused as a whole, with what
it is and how to convert it.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from sweepft.data.json_rows import FRAME, RECODE, Open, from_json, refuse
from sweepft.data.messages import without_nulls
from sweepft.data.reading import RowFault
from sweepft.errors import DataError
from sweepft.unpacking import UNPACKING_ERRORS, TooLarge, bounded, lines_of

_MOST_COLUMNS: Final = 10_000
_SMALL_TABLE: Final = 1 << 30
"""Bytes to which a small file may unpack; in Parquet, a text that is in every row is stored once."""

_HEAD: Final = 4096  # bytes that are looked at to tell what a file is
_JSON: Final = (".jsonl", ".ndjson", ".json")
_TABLES: Final = (".csv", ".tsv")
_BINARY: Final = (".parquet", ".arrow")
_NAMES: Final = (
    "the file's name must end in .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow (each also .gz, .bz2, .xz, "
    ".zst)"
)


def _open_zstd(file: Path) -> BinaryIO:
    import pyarrow as pa

    return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(file), compression="zstd")))


_PACKED: Final[Mapping[str, tuple[bytes, Callable[[Path], Any]]]] = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.open),
    ".xz": (b"\xfd7zXZ\x00", lzma.open),
    ".zst": (b"\x28\xb5\x2f\xfd", _open_zstd),
}
"""Ends of names of compressed files, the bytes that they begin with, and what opens them."""
_CONTENTS: Final[tuple[tuple[bytes, str, str], ...]] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "fetch the file with git lfs pull",
    ),
    (b"PK\x03\x04", "a ZIP archive or an Office document", "unpack or export it, and name the file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it, and name the file inside"),
    (b"SQLite format 3", "an SQLite database", f"export a table {FRAME}"),
)
_PAGES: Final = (b"<!doctype", b"<html", b"<?xml")
_PAGE_REMEDY: Final = "download the file itself (on the hub: the address with /resolve/ instead of /blob/)"
_OTHER_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys((".xlsx", ".feather"), f"convert it {FRAME}"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tar.gz", ".7z"), "unpack it, and name the file inside"),
}
_BINARY_STARTS: Final = {
    ".parquet": (b"PAR1",),
    ".arrow": (b"ARROW1", b"\xff\xff\xff\xff"),
}


def is_data_file(file: Path) -> bool:
    """Whether the name is that of a file with rows."""
    return _kind(file) is not None and file.name not in (
        "dataset_info.json",
        "dataset_infos.json",
        "state.json",
    )


def builder_of(file: Path) -> str:
    """The builder of `datasets` that reads files of this kind."""
    with file.open("rb") as stream:
        head = stream.read(len(b"PAR1"))
    kind = ".parquet" if head == b"PAR1" else _kind(file)
    return {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}.get(kind or "", "json")


def _kind(file: Path) -> str | None:
    name = file.name.lower()
    plain = name.removesuffix(_packing(name))
    return next((end for end in (*_JSON, *_TABLES, *_BINARY) if plain.endswith(end)), None)


def _packing(name: str) -> str:
    return next((end for end in _PACKED if name.endswith(end)), "")


def from_file(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, record)`` for each row of a file; a `RowFault` in place of a record that cannot be read.

    Raises:
        DataError: If the file as a whole cannot be read.
    """
    try:
        yield from _from_file(file)
    except TooLarge as error:
        raise refuse(
            file, str(error), "split the file, or unpack it yourself and name the unpacked file"
        ) from error
    except (*UNPACKING_ERRORS, ValueError) as error:  # ValueError: pyarrow's
        rule = f"the file must be readable: {type(error).__name__}: {error}"
        raise refuse(file, rule, "check that it is complete and in the format of its name") from error


def _from_file(file: Path) -> Iterator[tuple[str, Any]]:
    name = file.name.lower()
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    _check_contents(file, head)
    kind = _kind(file)
    if kind is None:
        remedy = next((r for end, r in _OTHER_NAMES.items() if name.endswith(end)), None)
        raise refuse(file, _NAMES, remedy or "convert the file, or rename it to its format", key="path")
    packing = next((end for end, (start, _) in _PACKED.items() if head.startswith(start)), "")
    named = _packing(name)
    if named and head and packing != named:
        raise refuse(
            file, f"the file is not compressed as its name says ({named})", f"rename it without {named}"
        )
    open_file = cast(
        Open,
        functools.partial(_unpacked_stream, packing, file) if packing else functools.partial(_open, file),
    )
    if packing:
        with open_file() as stream:
            head = stream.read(_HEAD)
        _check_contents(file, head)
    binary = next((end for end, starts in _BINARY_STARTS.items() if head.startswith(starts)), None)
    if binary is not None and binary != kind:
        raise refuse(file, f"the file is in {binary[1:].title()} format", f"rename it to end in {binary}")
    if kind in _BINARY:
        try:
            yield from (_from_parquet if kind == ".parquet" else _from_arrow)(file, open_file, bool(packing))
        except (DataError, TooLarge, *UNPACKING_ERRORS):
            raise
        except Exception as error:  # pyarrow has an error class for each of Python's
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return
    _check_encoding(file, head)
    yield from from_json(file, open_file, head) if kind in _JSON else _from_table(file, open_file, kind)


def _open(file: Path) -> BinaryIO:
    return file.open("rb")


def _unpacked_stream(packing: str, file: Path) -> BinaryIO:
    return bounded(_PACKED[packing][1](file), file)


def _check_contents(file: Path, head: bytes) -> None:
    """Refuse what is another kind of file, whatever its name."""
    for start, what, remedy in _CONTENTS:
        if head.startswith(start):
            raise refuse(file, f"the file is {what}", remedy)
    if head[257:262] == b"ustar":
        raise refuse(file, "the file is a tar archive", "unpack it, and name the file inside")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        raise refuse(file, "the file is a web page", _PAGE_REMEDY)


def _check_encoding(file: Path, head: bytes) -> None:
    found = json.detect_encoding(head[:4])
    if not found.startswith("utf-8") and head[:4].count(0) < len(head[:4]):
        name = found.upper().removesuffix("-LE").removesuffix("-BE")
        remedy = f"convert it: iconv -f {name} -t UTF-8 FILE > NEW"
        raise refuse(file, f"the file must be in UTF-8, and is in {name}", remedy)


def _from_table(file: Path, open_file: Open, kind: str) -> Iterator[tuple[str, Any]]:
    """Rows of a CSV or TSV file whose first line names the columns; all values are texts, empty ones are missing."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open_file() as stream:
        decoded = (
            line.decode("utf-8-sig" if n == 0 else "utf-8", "surrogateescape")
            for n, line in ((n - 1, line) for n, line in lines_of(stream))
        )
        lines = iter(decoded)
        above = 0  # blank lines above the first one
        first = next(lines, None)
        while first is not None and not first.strip():
            first, above = next(lines, None), above + 1
        if first is None:
            return
        delimiter = "\t" if kind == ".tsv" else max(",;\t", key=first.count)
        table = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        before = 0
        try:
            names = next(table)
            _check_header(file, names)
            before = table.line_num
            for row in table:
                if row:
                    yield f"{file}:{above + before + 1}", _as_record(names, row)
                before = table.line_num
        except csv.Error as error:
            if "unexpected end" in str(error):
                rule = "a quote is opened in this row and never closed"
                remedy = 'close it, or double quotes that belong to the text ("")'
                raise refuse(f"{file}:{above + before + 1}", rule, remedy) from None
            remedy = (
                'put values with quotes, delimiters or line breaks in quotes, and double quotes inside ("")'
            )
            raise refuse(
                f"{file}:{above + table.line_num}", f"must be a valid {kind[1:].upper()} row: {error}", remedy
            ) from None


def _check_header(file: Path, names: list[str]) -> None:
    if len(names) > _MOST_COLUMNS:
        rule = f"a table may have {_MOST_COLUMNS:,} columns, and the first line names {len(names):,}"
        raise refuse(f"{file}:1", rule, "name a table of rows")
    twice = sorted(name for name, number in Counter(names).items() if number > 1)
    if twice:
        rule = "the first line must name each column once"
        raise refuse(f"{file}:1", f"{rule}, and has {twice[0]!r} twice", "rename or remove one of them")


def _as_record(names: list[str], row: list[str]) -> Any:
    if len(row) != len(names):
        rule = f"a row must have the {len(names)} values of the first line"
        remedy = "put values with delimiters or line breaks in quotes"
        return RowFault("row", rule, remedy=remedy, detail=f"it has {len(row)}")
    text = "".join(row)
    if any("\udc80" <= char <= "\udcff" for char in text if char > "\ud7ff"):
        return RowFault("row", "rows must be in UTF-8", remedy=RECODE)
    return {name: value for name, value in zip(names, row, strict=True) if value != ""}


def _from_parquet(file: Path, open_file: Open, packed: bool) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.py_buffer(_unpacked(open_file)) if packed else file) as table:
        yield from _numbered(file, table.iter_batches(_BATCH))


def _from_arrow(file: Path, open_file: Open, packed: bool) -> Iterator[tuple[str, Any]]:
    """Rows of an Arrow file or stream, as `datasets` and `pandas` write them."""
    import pyarrow as pa

    source = pa.BufferReader(_unpacked(open_file)) if packed else pa.memory_map(str(file))
    with source:
        if source.read(6) == b"ARROW1":
            table = pa.ipc.open_file(source)
            yield from _numbered(file, (table.get_batch(i) for i in range(table.num_record_batches)))
        else:
            source.seek(0)
            yield from _numbered(file, pa.ipc.open_stream(source))


def _unpacked(open_file: Open) -> bytes:
    with open_file() as stream:
        return stream.read()


def _numbered(file: Path, batches: Any) -> Iterator[tuple[str, Any]]:
    number, size = 0, 0
    most = max(_SMALL_TABLE, 100 * file.stat().st_size)
    for batch in batches:
        size += batch.nbytes
        if size > most:
            raise TooLarge(f"it unpacks to more than {most >> 20:,} MiB, over 100 times its size on disk")
        for start in range(0, batch.num_rows, _BATCH):
            for record in batch.slice(start, _BATCH).to_pylist():
                number += 1
                yield f"{file}: row {number}", without_nulls(record)


_BATCH: Final = 10_000
