"""How another library reads a training source: its builder in `datasets`, and the form of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sweepft.data.file_kinds import builder_of, is_data_file
from sweepft.data.files import is_local, local_files, records
from sweepft.data.prepared import SourceForm
from sweepft.data.read import location_of
from sweepft.spec.sections import TrainSource

_ROWS: Final = 100  # that are looked at
_COLUMNS: Final = ("system", "system_prompt", "history", "functions")
_KEYS: Final = ("weight", "train")
_VARIABLES: Final = "chat_template_kwargs"


def source_form(source: TrainSource) -> SourceForm:
    """The form of a source, by its content and its first rows.

    Raises:
        DataError: If it cannot be read.
    """
    location = location_of(source)
    files = [file for file in local_files(source.path) if is_data_file(file)] if is_local(source.path) else []
    looked_at = records(replace(location, split=location.split and location.split.partition("[")[0]))
    rows = [record for _, record in islice(looked_at, _ROWS) if isinstance(record, Mapping)]
    reads = {name for name in ("system", "roles") if getattr(source, name)}
    if source.train_on != "all":
        reads.add("train_on")
    given = [row.get(_VARIABLES) for row in rows]
    variables = any(given) and all(isinstance(value, Mapping) for value in given)
    if any(given) and not variables:  # TRL takes objects, and one in every row
        reads.add(_VARIABLES)
    return SourceForm(
        path=source.path,
        split=source.split or "train",
        config=source.config,
        revision=source.revision,
        builder=builder_of(files[0]) if files else None,
        files=() if Path(source.path).is_file() else tuple(map(str, files)),
        form="other" if source.columns or not rows else _form(rows[0], source.format),
        tools=any(row.get("tools") is not None for row in rows),
        variables=variables,
        unread=tuple(sorted(reads.union(*(_unread(row) for row in rows)))),
    )


def _unread(row: Mapping[str, Any]) -> set[str]:
    """Columns, and keys of messages, that sweepft reads and TRL does not."""
    found = {name for name in _COLUMNS if row.get(name)}
    listed = row.get("messages")
    messages = [turn for turn in listed if isinstance(turn, Mapping)] if isinstance(listed, list) else []
    return found | {f"messages[].{key}" for turn in messages for key in _KEYS if key in turn}


def _form(row: Mapping[str, Any], wanted: str | None) -> str:
    if wanted in ("sharegpt", "alpaca", "question_answer"):
        return "other"
    if wanted == "text":
        return "text"
    given = {name for name, value in row.items() if value is not None}
    if "messages" in given and wanted != "prompt_completion":
        return "messages" if isinstance(row["messages"], list) else "other"
    if {"prompt", "completion"} <= given:
        as_messages = isinstance(row["prompt"], list) and isinstance(row["completion"], list)
        return "chat_prompt_completion" if as_messages else "prompt_completion"
    return "text" if "text" in given else "other"
