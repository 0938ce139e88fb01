"""How other libraries read a training source: by its content and its first row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sweepft.data.source_form import source_form
from sweepft.spec.sections import TrainSource

TURN = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "form", "tools"),
    [
        ({"messages": [TURN], "text": "b", "id": 1}, "messages", False),
        ({"messages": [TURN], "tools": [{"name": "f"}]}, "messages", True),
        ({"messages": None, "text": "b"}, "text", False),
        ({"prompt": "a", "completion": "b", "text": "ab"}, "prompt_completion", False),
        ({"prompt": [TURN], "completion": [TURN]}, "chat_prompt_completion", False),
        ({"prompt": [TURN], "completion": "b"}, "prompt_completion", False),
        ({"text": "b", "prompt": "a"}, "text", False),
        ({"instruction": "a", "output": "b"}, "other", False),
    ],
)
def test_source_form__by_the_first_row(row: dict[str, Any], form: str, tools: bool, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    found = source_form(TrainSource(path=str(file)))
    assert (found.form, found.tools, found.builder, found.split) == (form, tools, "json", "train")


def test_source_form__what_trl_does_not_read(tmp_path: Path) -> None:
    rows = [{"messages": [TURN]}, {"messages": [TURN | {"weight": 0}], "system": "s", "history": []}]
    (tmp_path / "rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert source_form(TrainSource(path=str(tmp_path / "rows.ndjson"))).unread == (
        "messages[].weight",
        "system",
    )


def test_source_form__parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"text": "a"}]), tmp_path / "rows.parquet")
    found = source_form(TrainSource(path=str(tmp_path / "rows.parquet")))
    assert (found.form, found.builder) == ("text", "parquet")
