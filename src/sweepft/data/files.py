"""Records of a data file or hub data set, with the place of each; what the columns mean is no matter of this module.

Files are read line by line, not by `datasets`, which cannot name the broken row. A file in another encoding or format
than its name says is refused as a whole, with what it is and how to convert it.
"""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

from sweepft.data.formats import COLUMNS, is_row
from sweepft.data.messages import RowFault, without_nulls
from sweepft.errors import DataError, Problem
from sweepft.spec import is_hub_id

_HEAD: Final = 4096  # bytes that are looked at to tell what a file is
_JSON: Final = (".jsonl", ".ndjson", ".json")
_NAMES: Final = "the file's name must end in .jsonl, .ndjson, .json (each also .gz) or .parquet"
_FRAME: Final = 'with pandas: frame.to_json("NEW.jsonl", orient="records", lines=True)'
_CONTENTS: Final[tuple[tuple[bytes, str, str], ...]] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "fetch the file with git lfs pull",
    ),
    (b"PK\x03\x04", "a ZIP archive or an Office document", "unpack or export it, and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "unpack it with zstd -d, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it with xz -d, or compress it with gzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2, or compress it with gzip"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it, and name the file inside"),
    (b"ARROW1", "an Arrow file", 'convert it: datasets.Dataset.from_file(FILE).to_parquet("NEW.parquet")'),
    (b"\xff\xff\xff\xff", "an Arrow stream", "convert it: datasets.Dataset.from_file(FILE).to_parquet(NEW)"),
    (b"SQLite format 3", "an SQLite database", f"export a table {_FRAME}"),
)
_PAGES: Final = (b"<!doctype", b"<html", b"<?xml")
_PAGE_REMEDY: Final = "download the file itself (on the hub: the address with /resolve/ instead of /blob/)"
_OTHER_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".feather"), f"convert it {_FRAME}"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tar.gz", ".7z"), "unpack it, and name the file inside"),
    **dict.fromkeys((".zst", ".xz", ".bz2"), "unpack it, or compress it with gzip"),
    ".arrow": 'convert it: datasets.Dataset.from_file(FILE).to_parquet("NEW.parquet")',
    ".parquet.gz": "unpack it: Parquet files are compressed inside",
}


def is_local(path: str) -> bool:
    """Whether `path` is on this machine's disks, rather than the id of a hub data set."""
    return Path(path).exists()


def records(path: str, split: str) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, record)`` for each row of a file or hub data set.

    A line that cannot be read is yielded as a `RowFault` in place of its record.

    Raises:
        DataError: If the file or data set as a whole cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        remedy = "name each file as a source of its own"
        raise _whole(path, "must be a file, not a folder", remedy, key="path")
    if not file.is_file():
        if not is_hub_id(path):
            remedy = "check the path; data sets of the hub are named org/name"
            raise _whole(path, "the file does not exist", remedy, key="path")
        yield from _from_hub(path, split)
        return
    try:
        yield from _from_file(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: pyarrow's own errors
        rule = f"the file must be readable: {type(error).__name__}: {error}"
        raise _whole(path, rule, "check that it is complete and in the format of its name") from error


def _whole(path: Path | str, rule: str, remedy: str, *, key: str = "file") -> DataError:
    return DataError([Problem(str(path), key, rule, remedy)])


def _from_file(file: Path) -> Iterator[tuple[str, Any]]:
    name = file.name.lower()
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    _check_contents(file, head)
    zipped = head.startswith(b"\x1f\x8b")
    if name.endswith(".parquet"):
        yield from _from_parquet(file)
        return
    if not name.removesuffix(".gz").endswith(_JSON):
        remedy = next((r for end, r in _OTHER_NAMES.items() if name.endswith(end)), None)
        raise _whole(file, _NAMES, remedy or "convert the file, or rename it to its format", key="path")
    if head.startswith(b"PAR1"):
        raise _whole(file, "the file is in Parquet format", "rename it to end in .parquet")
    if name.endswith(".gz") and head and not zipped:
        raise _whole(file, "the file is not compressed with gzip", "rename it without .gz")
    opener: Callable[..., Any] = gzip.open if zipped else open
    if zipped:
        with opener(file, "rb") as stream:
            head = stream.read(_HEAD)
        _check_contents(file, head)
    _check_encoding(file, head)
    yield from _from_json(file, opener, head)


def _check_contents(file: Path, head: bytes) -> None:
    """Refuse what is another kind of file, whatever its name."""
    for start, what, remedy in _CONTENTS:
        if head.startswith(start):
            raise _whole(file, f"the file is {what}", remedy)
    if head[257:262] == b"ustar":
        raise _whole(file, "the file is a tar archive", "unpack it, and name the file inside")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        raise _whole(file, "the file is a web page", _PAGE_REMEDY)


def _check_encoding(file: Path, head: bytes) -> None:
    found = json.detect_encoding(head[:4])
    if not found.startswith("utf-8"):
        name = found.upper().removesuffix("-LE").removesuffix("-BE")
        remedy = f"convert it: iconv -f {name} -t UTF-8 FILE > NEW"
        raise _whole(file, f"the file must be in UTF-8, and is in {name}", remedy)


def _from_json(file: Path, opener: Callable[..., Any], head: bytes) -> Iterator[tuple[str, Any]]:
    """Rows of a list, or one row a line; which of both, by content."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    with opener(file, "rb") as stream:
        lines: Iterator[tuple[int, bytes]] = (
            (n, line) for n, line in enumerate(stream, 1) if line.strip(b"\xef\xbb\xbf \t\r\n")
        )
        first = next(lines, None)
        if first is None:
            return
        record = _parsed(first[1])
        if start.startswith(b"["):
            second = next(lines, None)
            if second is None or isinstance(record, RowFault):
                yield from _from_list(file, opener)
                return
            lines = chain([second], lines)
        elif isinstance(record, RowFault) and record.rule == _NOT_JSON:
            whole = _one_object(file, opener, first[1])
            if whole is not None:
                yield f"{file}: row 1", whole
                return
        else:
            second = next(lines, None)
            if second is None:
                _refuse_table(file, record)
            lines = lines if second is None else chain([second], lines)
        for number, line in chain([first], lines):
            yield f"{file}:{number}", _parsed(line)


_NOT_JSON: Final = "rows must be valid JSON"


def _parsed(line: bytes) -> Any:
    """The value of a line, or a `RowFault`."""
    try:
        text = line.decode("utf-8-sig").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        there = line[error.start : error.start + 1]
        shown = there.decode("cp1252", "replace")
        return RowFault(
            "row",
            "rows must be in UTF-8",
            remedy="a file in Windows-1252 or Latin-1 is converted by: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
            detail=f"byte {error.start + 1} of the line, 0x{there.hex().upper()}, is {shown!r} in Windows-1252",
        )
    try:
        return _DECODER.decode(text)
    except _TwiceError as error:
        rule = "an object must not have a key twice"
        return RowFault("row", rule, str(error), "keep one of the two: only one of them can count")
    except (ValueError, RecursionError) as error:
        return _why_not_json(text, error)


class _TwiceError(Exception):
    """A key that is in an object twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)


def _why_not_json(text: str, error: Exception) -> RowFault:
    if _is_json(text.split("\r", maxsplit=1)[0]) and "\r" in text:
        rule = "lines must end in a line feed, and these end in a carriage return alone"
        return RowFault("row", rule, remedy="convert the file: tr '\\r' '\\n' < FILE > NEW")
    if text.endswith(",") and _is_json(text[:-1]):
        remedy = "remove the commas: sed 's/},$/}/' FILE > NEW"
        return RowFault("row", "a line must be one JSON object, without a comma behind it", remedy=remedy)
    if text.startswith("{") and _is_python(text):
        rule = "rows must be JSON, and this is a Python literal"
        return RowFault("row", rule, remedy="write the rows with json.dumps(row)")
    return RowFault("row", _NOT_JSON, remedy="fix or remove the line", detail=_shown(error))


def _shown(error: Exception) -> str:
    """An error of a line, without the line number, which is always 1."""
    return f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_python(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), dict)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _from_list(file: Path, opener: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    with opener(file, "rb") as stream:
        content = stream.read()
    try:
        found = _DECODER.decode(content.decode("utf-8-sig"))
    except _TwiceError as error:
        remedy = "keep one of the two: only one of them can count"
        raise _whole(file, f"an object must not have a key twice, and one has {error}", remedy) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        remedy = (
            "a file in Windows-1252 or Latin-1 is converted by: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
        )
        rule = f"the file must be in UTF-8, and byte 0x{content[error.start]:02X} is not"
        raise _whole(f"{file}:{line}", rule, remedy) from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        rule, remedy = f"the file must be valid JSON: {error}", "fix the file here"
        before = content.decode("utf-8-sig")[: getattr(error, "pos", 0)].rstrip()
        if before.endswith(","):
            remedy = "a list must not end in a comma"
        elif line > 1 and before.endswith("]"):
            remedy = "write one list, or one object a line"
        raise _whole(f"{file}:{line}", rule, remedy) from None
    for number, record in enumerate(found, 1):
        yield f"{file}: row {number}", record


def _one_object(file: Path, opener: Callable[..., Any], first: bytes) -> dict[str, Any] | None:
    """The one row of a file that is a single object over several lines; None for broken lines."""
    if first.strip() not in (b"{", b"\xef\xbb\xbf{") and not first.rstrip().endswith(
        (b",", b"{", b"[", b":")
    ):
        return None
    with opener(file, "rb") as stream:
        text = stream.read().decode("utf-8-sig", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            remedy = "write one row a line: jq -c . FILE > NEW.jsonl"
            raise _whole(file, "each row must be on a line of its own", remedy) from None
        return None
    if not isinstance(found, dict):
        return None
    _refuse_table(file, found)
    return found


def _refuse_table(file: Path, record: Any) -> None:
    """Refuse a file that is one object which holds many rows."""
    if not isinstance(record, Mapping):
        return
    columns = [value for name, value in record.items() if name in COLUMNS]
    if {"columns", "data"} <= record.keys() or (columns and all(map(_is_column, columns))):
        rule = "each row must be an object of columns, and the file is one object of whole columns"
        raise _whole(file, rule, f"write it {_FRAME}")
    if is_row(record):
        return
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            remedy = f"write them as rows: jq -c '.{name}[]' FILE > NEW.jsonl"
            raise _whole(file, f"the file is one object, with its rows under the key {name!r}", remedy)


def _is_column(value: Any) -> bool:
    """Values of many rows: a list of texts or of conversations, or pandas' ``{"0": ..., "1": ...}``."""
    if isinstance(value, Mapping):
        return bool(value) and all(str(name).isdigit() for name in value)
    return isinstance(value, list) and bool(value) and all(isinstance(item, str | list) for item in value)


def _from_parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{file}: row {number}", without_nulls(record)


def _from_hub(path: str, split: str) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(path, split=split)
        for number, record in enumerate(loaded, 1):
            yield f"{path}[{split}]: row {number}", without_nulls(record)
    except Exception as error:  # errors of datasets, of the hub, of the file system and of decoders
        rule = f"the data set must be loadable: {type(error).__name__}: {error}"
        remedy = "check the hub id, its split and the network; or download it and name the file"
        if "Config name is missing" in str(error):
            remedy = "download the file of one configuration (hf download --repo-type dataset), and name it"
        raise DataError([Problem(f"{path} (split {split})", "path", rule, remedy)]) from error
