"""Rows as requests to a model: what comes before a row's last answer, and the row itself for a function that scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweepft.data.formats import FORMATS, Format, mapped_format, read_row
from sweepft.data.reading import FORMS, Options, Reading, RowFault
from sweepft.data.row_fields import SYSTEM, VARIABLES, is_missing

_BESIDE = (*SYSTEM, VARIABLES, "tools", "functions")


@dataclass(frozen=True)
class Request:
    """A row that a model is to answer.

    Attributes:
        chat: The messages before the answer, as a chat template gets them.
        settings: Further arguments of the template: tools and variables, where the row has any.
        reference: The row's own answer; empty where it has none.
        row: All columns, as in the file.
        where: Its place.
    """

    chat: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    reference: str
    row: Mapping[str, Any]
    where: str


def read_request(record: Any, where: str, reading: Reading) -> Request:
    """A record as a request. Columns that no format reads are left to the function, whatever their names.

    Args:
        record: Columns and values; the answer may be missing.
        where: Its place.
        reading: How the file is read.
    Raises:
        RowFault: If there is no request in it.
    """
    if isinstance(record, RowFault):
        raise record
    if not isinstance(record, Mapping):
        raise RowFault("row", "each row must be an object of columns", record)
    row = read_row(_columns_of_request(record, reading.options), where, reading)
    assert not isinstance(row.content, str)
    answered = bool(row.content) and row.content[-1].role == "assistant"
    turns = row.content[:-1] if answered else row.content
    if not any(turn.role == "user" for turn in turns):
        raise RowFault("messages", "must have a request before the answer", remedy="add a user turn")
    tools = {"tools": list(row.tools)} if row.tools else {}
    return Request(
        chat=tuple(turn.message() for turn in turns),
        settings={**row.variables, **tools},
        reference=row.content[-1].content if answered else "",
        row=dict(record),
        where=where,
    )


def _columns_of_request(record: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The columns of the first format that fits, with an empty answer where the row has none."""
    mapped = {key: name for key, name in options.columns.items() if key not in ("role", "content")}
    given = {name for name, value in record.items() if not is_missing(value)}
    names = (given - set(mapped.values())) | set(mapped)
    chosen = _format_of(names, options.format or mapped_format(tuple(options.columns)))
    if chosen is None:
        shown = ", ".join(sorted(map(str, given))) or "none"
        raise RowFault("columns", "no column with a request to answer", shown, FORMS)
    wanted = {*chosen.columns, *chosen.optional, *_BESIDE}
    sources = {mapped.get(name, name).partition(".")[0] for name in wanted} | {
        mapped[name] for name in wanted if name in mapped
    }
    kept = {name: value for name, value in record.items() if name in sources}
    if len(chosen.columns) == 2 and chosen.columns[1] not in names:
        kept[chosen.columns[1]] = ""
    return kept


def _format_of(names: set[str], wanted: str | None) -> Format | None:
    """The first format whose columns are there; else the first one that lacks the answer only."""
    fits = [f for f in FORMATS if f.name != "text" and wanted in (None, f.name)]
    whole = (f for f in fits if names.issuperset(f.columns))
    asked = (f for f in fits if len(f.columns) == 2 and f.columns[0] in names)
    return next(whole, None) or next(asked, None)
