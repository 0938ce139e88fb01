"""How another library reads a training source: its builder in `datasets`, and the form of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.data.files import records
from sweepft.data.prepared import SourceForm
from sweepft.spec.sections import TrainSource

_PARQUET: Final = b"PAR1"


def source_form(source: TrainSource) -> SourceForm:
    """The form of a source, by its content and its first row.

    Raises:
        DataError: If it cannot be read.
    """
    file = Path(source.path)
    split = source.split or "train"
    builder = None
    if file.is_file():
        with file.open("rb") as stream:
            builder = "parquet" if stream.read(len(_PARQUET)) == _PARQUET else "json"
    first = next((record for _, record in records(source.path, split) if isinstance(record, Mapping)), {})
    form, tools = _form(first, source.format), first.get("tools") is not None
    return SourceForm(path=source.path, split=split, builder=builder, form=form, tools=tools)


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
