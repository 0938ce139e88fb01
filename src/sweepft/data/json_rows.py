"""Rows of JSON Lines and of JSON lists, and why a line cannot be read."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

from sweepft.bounded_json import MOST_DEPTH, read_json
from sweepft.data.formats import COLUMNS, is_row
from sweepft.data.reading import RowFault
from sweepft.errors import DataError, Problem
from sweepft.unpacking import lines_of

Open = Callable[[], BinaryIO]
_LONGEST_LITERAL: Final = 1_000_000  # characters; to parse one of Python takes a hundred times its memory
FRAME: Final = 'with pandas: frame.to_json("NEW.jsonl", orient="records", lines=True)'
RECODE: Final = "a file in Windows-1252 or Latin-1 is converted by: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"


def refuse(path: Path | str, rule: str, remedy: str, *, key: str = "file") -> DataError:
    """The error of a file as a whole."""
    return DataError([Problem(str(path), key, rule, remedy)])


def from_json(file: Path, open_file: Open, head: bytes) -> Iterator[tuple[str, Any]]:
    """Rows of a list, or one row a line; which of both, by content.

    Args:
        file: For the places of rows.
        open_file: Opens its unpacked bytes.
        head: The beginning of these bytes.
    Raises:
        DataError: If it is a list or an object that cannot be read.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    with open_file() as stream:
        lines: Iterator[tuple[int, bytes]] = (
            (n, line) for n, line in lines_of(stream) if line.strip(b"\xef\xbb\xbf \t\r\n")
        )
        first = next(lines, None)
        if first is None:
            return
        record = _parsed(first[1])
        if start.startswith(b"["):
            second = next(lines, None)
            if second is None or isinstance(record, RowFault):
                yield from _from_list(file, open_file)
                return
            lines = chain([second], lines)
        elif isinstance(record, RowFault) and record.rule == _NOT_JSON:
            whole = _one_object(file, open_file, first[1])
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
            remedy=RECODE,
            detail=f"byte {error.start + 1} of the line, 0x{there.hex().upper()}, is {shown!r} in Windows-1252",
        )
    try:
        return _sound(_DECODER.decode(text))
    except _TwiceError as error:
        rule = "an object must not have a key twice"
        return RowFault("row", rule, str(error), "keep one of the two: only one of them can count")
    except (ValueError, RecursionError) as error:
        return _why_not_json(text, error)


def _sound(value: Any) -> Any:
    """The value, or a `RowFault` if it is nested too deeply."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [part for outer in level for part in _inside(outer)]
        if not level:
            break
    else:
        return RowFault("row", f"lists and objects may be nested {MOST_DEPTH} deep", remedy="remove the row")
    return value


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (part for part in value.values() if isinstance(part, dict | list))
    return (part for part in value if isinstance(part, dict | list)) if isinstance(value, list) else ()


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
    if "\0" in text:
        rule = "the line holds NUL bytes, as a write that was cut off by a crash leaves them"
        remedy = "write the file again, or remove the line"
        return RowFault("row", rule, remedy=remedy, detail=f"{text.count(chr(0)):,} of them")
    if _is_json(text.split("\r", maxsplit=1)[0]) and "\r" in text:
        rule = "lines must end in a line feed, and these end in a carriage return alone"
        return RowFault("row", rule, remedy="convert the file: tr '\\r' '\\n' < FILE > NEW")
    if text.endswith(",") and _is_json(text[:-1]):
        remedy = "remove the commas: sed 's/},$/}/' FILE > NEW"
        return RowFault("row", "a line must be one JSON object, without a comma behind it", remedy=remedy)
    said = getattr(error, "msg", "")
    if said == "Extra data" and text[error.pos :].lstrip().startswith(("{", "[")):  # type: ignore[attr-defined]
        return RowFault("row", "each row must be on a line of its own", remedy="jq -c . FILE > NEW.jsonl")
    if said == "Invalid control character at":
        rule = "control characters in texts must be written as escapes"
        shown = f"{ord(text[error.pos]):04X}"  # type: ignore[attr-defined]
        return RowFault(
            "row", rule, remedy="write the rows with json.dumps(row)", detail=f"U+{shown} {_shown(error)}"
        )
    if said == "Unterminated string starting at":
        rule = "rows must be valid JSON, and a text has no closing quote on its line"
        remedy = "fix or remove the line; line breaks in texts are written as \\n"
        return RowFault("row", rule, remedy=remedy, detail=_shown(error))
    if "“" in text[:20]:
        return RowFault(
            "row", "texts and names must be in straight quotes", remedy="write the rows with json.dumps(row)"
        )
    if text.startswith("{") and len(text) < _LONGEST_LITERAL and _is_python(text):
        rule = "rows must be JSON, and this is a Python literal"
        return RowFault("row", rule, remedy="write the rows with json.dumps(row)")
    return RowFault("row", _NOT_JSON, remedy="fix or remove the line", detail=_shown(error))


def _shown(error: Exception) -> str:
    """An error of a line, without the line number, which is always 1."""
    return f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_python(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), dict)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _from_list(file: Path, open_file: Open) -> Iterator[tuple[str, Any]]:
    with open_file() as stream:
        content = stream.read()
    if content.count(b"[") + content.count(b"{") > max(1_000_000, len(content) // 6):
        raise refuse(file, "the file holds more brackets than rows have", "name a file with rows")
    try:
        found = _DECODER.decode(content.decode("utf-8-sig"))
    except _TwiceError as error:
        remedy = "keep one of the two: only one of them can count"
        raise refuse(file, f"an object must not have a key twice, and one has {error}", remedy) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        rule = f"the file must be in UTF-8, and byte 0x{content[error.start]:02X} is not"
        raise refuse(f"{file}:{line}", rule, RECODE) from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        rule, remedy = f"the file must be valid JSON: {error}", "fix the file here"
        before = content.decode("utf-8-sig")[: getattr(error, "pos", 0)].rstrip()
        if before.endswith(","):
            remedy = "a list must not end in a comma"
        elif line > 1 and before.endswith("]"):
            remedy = "write one list, or one object a line"
        raise refuse(f"{file}:{line}", rule, remedy) from None
    for number, record in enumerate(found, 1):
        yield f"{file}: row {number}", _sound(record)


def _one_object(file: Path, open_file: Open, first: bytes) -> dict[str, Any] | None:
    """The one row of a file that is a single object over several lines; None for broken lines."""
    if first.strip() not in (b"{", b"\xef\xbb\xbf{") and not first.rstrip().endswith(
        (b",", b"{", b"[", b":")
    ):
        return None
    with open_file() as stream:
        text = stream.read().decode("utf-8-sig", "replace")
    try:
        found = read_json(text)
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            remedy = "write one row a line: jq -c . FILE > NEW.jsonl"
            raise refuse(file, "each row must be on a line of its own", remedy) from None
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
        raise refuse(file, rule, f"write it {FRAME}")
    if is_row(record):
        return
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(i, Mapping) and is_row(i) for i in value):
            remedy = f"write them as rows: jq -c '.{name}[]' FILE > NEW.jsonl"
            raise refuse(file, f"the file is one object, with its rows under the key {name!r}", remedy)


def _is_column(value: Any) -> bool:
    """Values of many rows: a list of texts or of conversations, or pandas' ``{"0": ..., "1": ...}``."""
    if isinstance(value, Mapping):
        return bool(value) and all(str(name).isdigit() for name in value)
    return isinstance(value, list) and bool(value) and all(isinstance(item, str | list) for item in value)
