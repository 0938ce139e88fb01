"""How another library reads a training source: its builder in `datasets`, and the form of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sweepft.data.files import records
from sweepft.data.prepared import SourceForm
from sweepft.spec.sections import TrainSource

_PARQUET: Final = b"PAR1"
_ROWS: Final = 100  # that are looked at
_COLUMNS: Final = ("system", "system_prompt", "history", "functions")
_KEYS: Final = ("weight", "train")


def source_form(source: TrainSource) -> SourceForm:
    """The form of a source, by its content and its first rows.

    Raises:
        DataError: If it cannot be read.
    """
    file = Path(source.path)
    split = source.split or "train"
    builder = None
    if file.is_file():
        with file.open("rb") as stream:
            builder = "parquet" if stream.read(len(_PARQUET)) == _PARQUET else "json"
    rows = [record for _, record in islice(records(source.path, split), _ROWS) if isinstance(record, Mapping)]
    return SourceForm(
        path=source.path,
        split=split,
        builder=builder,
        form=_form(rows[0], source.format) if rows else "other",
        tools=any(row.get("tools") is not None for row in rows),
        unread=tuple(sorted({name for row in rows for name in _unread(row)})),
    )


def _unread(row: Mapping[str, Any]) -> set[str]:
    """Columns, and keys of messages, that sweepft reads and TRL does not."""
    found = {name for name in _COLUMNS if row.get(name)}
    messages = [turn for turn in row.get("messages") or () if isinstance(turn, Mapping)]
    return found | {f"messages[].{key}" for turn in messages for key in _KEYS if key in turn}


def _form(row: Mapping[str, Any], wanted: str | None) -> str:
    if wanted in ("sharegpt", "alpaca", "question_answer"):
        return "other"
    if wanted == "text":
        return "text"
    given = {name for name, value in row.items() if value is not None}
    if "messages" in given and wanted != "prompt_completion":
        return "messages"
    if {"prompt", "completion"} <= given:
        as_messages = isinstance(row["prompt"], list) and isinstance(row["completion"], list)
        return "chat_prompt_completion" if as_messages else "prompt_completion"
    return "text" if "text" in given else "other"
