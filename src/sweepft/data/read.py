"""Read rows of instruction data from the usual file formats into one normal form.

Files are read line by line, not by `datasets`, which cannot name the broken row; hub data sets and folders are loaded
by `datasets`. No torch, no tokenizer.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.data.rows import Row, Turn
from sweepft.errors import DataError, Problem

_MAX_PROBLEMS: Final = 10  # a file in the wrong format would otherwise list every row
_JSON_RULE: Final = "rows must be valid JSON in UTF-8"
_FORMS: Final = "give each row `messages` ([{role, content}, ...]), `prompt` and `completion`, or `text`"


def is_local(path: str) -> bool:
    """Whether `path` is on this machine's disks, rather than the id of a hub data set."""
    return Path(path).exists()


def read_rows(path: str, *, split: str = "train", domain: str | None = None) -> list[Row]:
    """Read a file, a folder or a hub data set.

    Args:
        path: ``.jsonl``, ``.json`` (a list, or lines), both also ``.gz``, or ``.parquet``; else a folder or
            hub id for `datasets.load_dataset`.
        split: Split of a folder or hub data set.
        domain: Domain of all rows; by default each row's own ``domain``.
    Returns:
        At least one row, in file order.
    Raises:
        DataError: If the source cannot be read, is empty, or has broken rows (the first ten are named).
    """
    file = Path(path)
    problems: list[Problem] = []
    rows: list[Row] = []
    for where, record in _records(file, path, split, problems):
        try:
            rows.append(_normal(record, domain, where))
        except _InvalidRow as broken:
            problems.append(broken.problem(where))
        if len(problems) >= _MAX_PROBLEMS:
            break
    if not problems and not rows:
        problems.append(Problem(path, "rows", "the data must have at least one row", "name a file with rows"))
    if problems:
        raise DataError(problems)
    return rows


class _InvalidRow(Exception):
    """A row that is not in one of the forms."""

    def __init__(self, key: str, rule: str, value: Any = None, remedy: str = _FORMS) -> None:
        super().__init__(rule)
        self.key, self.rule, self.value, self.remedy = key, rule, value, remedy

    def problem(self, where: str) -> Problem:
        return Problem(where, self.key, self.rule, self.remedy, self.value)


def _records(file: Path, path: str, split: str, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """Yield (where, record), or (where, _Broken) for a broken line; a problem for the file ends it."""
    if not file.is_file():
        yield from _from_datasets(path, split, problems)
        return
    try:
        if file.name.endswith(".parquet"):
            yield from _from_parquet(file)
        elif file.name.removesuffix(".gz").endswith((".jsonl", ".json", ".ndjson")):
            yield from _from_json(file, problems)
        else:
            rule = "the file's name must end in .jsonl, .json (both also .gz) or .parquet"
            problems.append(Problem(path, "path", rule, "convert the file, or rename it to its format"))
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: pyarrow's own errors
        rule = f"the file must be readable: {type(error).__name__}: {error}"
        problems.append(
            Problem(path, "file", rule, "check that it is complete and in the format of its name")
        )


def _from_json(file: Path, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    opener: Callable[..., Any] = gzip.open if file.name.endswith(".gz") else open
    if file.name.removesuffix(".gz").endswith(".json"):
        with opener(file, "rb") as stream:
            start = stream.read(4096).decode("utf-8-sig", "replace").lstrip()
        if start.startswith("["):
            yield from _from_list(file, opener, problems)
            return
    with opener(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                yield where, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
                yield where, _InvalidRow("row", f"{_JSON_RULE}: {error}", remedy="fix or remove this line")


def _from_list(file: Path, opener: Callable[..., Any], problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    with opener(file, "rb") as stream:
        try:
            records = json.loads(stream.read().decode("utf-8-sig"))
        except ValueError as error:
            where = f"{file}:{getattr(error, 'lineno', 1)}"
            problems.append(Problem(where, "file", f"{_JSON_RULE}: {error}", "fix the file here"))
            return
    for number, record in enumerate(records, 1):
        yield f"{file}: row {number}", record


def _from_parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{file}: row {number}", record


def _from_datasets(path: str, split: str, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(path, split=split)
    except Exception as error:  # errors of datasets, of the hub and of the file system
        rule = f"the data set must be loadable: {type(error).__name__}: {error}"
        remedy = "check the path or hub id, its split and the network; or download it and name the file"
        problems.append(Problem(f"{path} (split {split})", "path", rule, remedy))
        return
    for number, record in enumerate(loaded, 1):
        yield f"{path}[{split}]: row {number}", record


def _normal(record: Any, domain: str | None, where: str) -> Row:
    if isinstance(record, _InvalidRow):
        raise record
    if not isinstance(record, Mapping):
        raise _InvalidRow("row", "each row must be an object of columns", record)
    own = record.get("domain")
    if own is not None and not isinstance(own, str):
        raise _InvalidRow("domain", "a domain must be text", own, "write it in quotes, or leave it out")
    return Row(_content(record), domain if domain is not None else own, where)


def _content(record: Mapping[str, Any]) -> tuple[Turn, ...] | str:
    if record.get("messages") is not None:
        return tuple(_turns(record["messages"], "messages"))
    prompt, completion = record.get("prompt"), record.get("completion")
    if prompt is not None and completion is not None:
        return (
            *_turns(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}], "prompt"),
            *_turns(
                completion
                if isinstance(completion, list)
                else [{"role": "assistant", "content": completion}],
                "completion",
            ),
        )
    text = record.get("text")
    if text is not None:
        return _text(text, "text")
    found = ", ".join(sorted(str(name) for name in record)) or "none"
    raise _InvalidRow("columns", "no column to train on", found)


def _turns(messages: Any, column: str) -> Iterable[Turn]:
    if not isinstance(messages, list):
        raise _InvalidRow(column, "must be a list of messages", messages)
    for i, message in enumerate(messages):
        key = f"{column}.{i}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise _InvalidRow(key, "a message must be an object with `role` and `content`", message)
        role = message["role"]
        if not isinstance(role, str) or not role:
            raise _InvalidRow(f"{key}.role", "a role must be text", role, "use system, user or assistant")
        if message.get("tool_calls"):
            remedy = "write the call into `content` as the model shall write it, or leave these rows out"
            raise _InvalidRow(f"{key}.tool_calls", "tool calls are not trained on", remedy=remedy)
        yield Turn(role, _text(message["content"], f"{key}.content"))


def _text(value: Any, key: str) -> str:
    if isinstance(value, list):  # [{"type": "text", "text": ...}, ...]
        parts = [p.get("text") if isinstance(p, Mapping) and p.get("type") == "text" else None for p in value]
        value = value if None in parts else "".join(str(part) for part in parts)
    if not isinstance(value, str):
        raise _InvalidRow(key, "must be text", value, "write the text in quotes; only text can be trained on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _InvalidRow(
            key, f"must be valid Unicode: {error.reason}", remedy="mend the broken character"
        ) from None
    return value
