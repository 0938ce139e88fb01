"""Rows of every format are read; errors name the file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.errors import raises
from support.rows import chat, turns
from sweepft.data.read import read_rows
from sweepft.data.rows import Row
from sweepft.errors import DataError

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
CHAT = turns(("user", "hi"), ("assistant", "yo"))


def lines(*records: Any) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def one(file: Path, **options: Any) -> Row:
    [row] = read_rows(str(file), **options)
    return row


@pytest.mark.parametrize(
    ("record", "content"),
    [
        ({"messages": MESSAGES}, CHAT),
        ({"prompt": "hi", "completion": "yo"}, CHAT),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, CHAT),
        ({"text": "some text"}, "some text"),
        ({"messages": MESSAGES, "text": "ignored"}, CHAT),
        ({"messages": None, "text": "some text"}, "some text"),
        ({"messages": [{**MESSAGES[0], "name": None}, {**MESSAGES[1], "tool_calls": None}]}, CHAT),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "yo"}]}]},
            turns(("assistant", "yo")),
        ),
        ({"messages": []}, ()),
    ],
)
def test_read_rows__forms(tmp_path: Path, record: dict[str, Any], content: Any) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(record))
    assert one(file) == Row(content, None, f"{file}:1")


@pytest.mark.parametrize(
    ("own", "given", "domain"), [(None, None, None), ("a", None, "a"), (None, "b", "b"), ("a", "b", "b")]
)
def test_read_rows__domain(tmp_path: Path, own: str | None, given: str | None, domain: str | None) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines({"text": "x", "domain": own}))
    assert one(file, domain=given).domain == domain


def test_read_rows__same_rows_from_every_file_type(tmp_path: Path) -> None:
    records = [{"messages": MESSAGES, "domain": "a"}, {"messages": MESSAGES[::-1], "domain": None}]
    (tmp_path / "a.jsonl").write_text(lines(*records))
    (tmp_path / "b.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "c.json").write_text(lines(*records))
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines(*records).encode()))
    (tmp_path / "e.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(*records).encode())
    (tmp_path / "g.jsonl").write_text(lines(records[0], "", records[1]).replace("\n", "\r\n"))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "h.parquet")
    folder = tmp_path / "i"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(records), folder / "train.parquet")
    read = {p.name: read_rows(str(p)) for p in sorted(tmp_path.iterdir())}
    assert len(read) == 9
    for rows in read.values():
        assert [(r.content, r.domain) for r in rows] == [(CHAT, "a"), (CHAT[::-1], None)]
    assert read["g.jsonl"][1].where == f"{tmp_path}/g.jsonl:3"
    assert read["h.parquet"][1].where == f"{tmp_path}/h.parquet: row 2"
    assert read["i"][1].where.endswith("row 2")


GOOD = json.dumps({"text": "fine"})


@pytest.mark.parametrize(
    ("line", "says", "remedy"),
    [
        ('{"text": "no end', "valid JSON", "line"),
        ('["a", "list"]', "object of columns", "messages"),
        ("42", "object of columns", "messages"),
        ('{"instruction": "x", "output": "y"}', "instruction, output", "prompt"),
        ('{"prompt": "x"}', "no column", "completion"),
        ('{"text": 5}', "must be text", "quotes"),
        ('{"text": "x", "domain": 5}', "domain must be text", "quotes"),
        ('{"messages": "hi"}', "list of messages", "messages"),
        ('{"messages": ["hi"]}', "`role` and `content`", "messages"),
        ('{"messages": [{"from": "human", "value": "hi"}]}', "`role` and `content`", "messages"),
        ('{"messages": [{"role": 3, "content": "hi"}]}', "role must be text", "assistant"),
        ('{"messages": [{"role": "user", "content": null}]}', "must be text", "text"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "must be text", "text"),
        ('{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}', "tool calls", "leave"),
        ('{"prompt": 3, "completion": "y"}', "must be text", "text"),
        ('{"text": "\\ud800"}', "valid Unicode", "character"),
    ],
)
def test_read_rows__names_the_line_of_a_broken_row(tmp_path: Path, line: str, says: str, remedy: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(GOOD, line, GOOD))
    with pytest.raises(DataError) as caught:
        read_rows(str(file))
    assert says in str(caught.value)
    [problem] = caught.value.problems
    assert problem.where == f"{file}:2"
    assert remedy in problem.remedy


def test_read_rows__limits_the_problems_listed(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(GOOD, "{", GOOD, '{"text": 1}', GOOD))
    with pytest.raises(DataError) as caught:
        read_rows(str(file))
    assert [p.where for p in caught.value.problems] == [f"{file}:2", f"{file}:4"]
    file.write_text("{\n" * 1000)
    with pytest.raises(DataError) as caught:
        read_rows(str(file))
    assert len(caught.value.problems) == 10


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("d.jsonl", b"", "rows"),
        ("d.jsonl", b"\n\n", "rows"),
        ("d.json", b"[]", "rows"),
        ("d.json", b'[{"text": "x"}', "file"),
        ("d.jsonl", b'{"text": "\xff"}\n', "row"),
        ("d.jsonl.gz", b"no gzip", "file"),
        ("d.jsonl.gz", gzip.compress(GOOD.encode() * 99, mtime=0)[:-9], "file"),
        ("d.parquet", b"no parquet", "file"),
        ("d.csv", b"a,b", "path"),
        ("d.parquet.gz", b"x", "path"),
    ],
)
def test_read_rows__unusable_files(tmp_path: Path, name: str, content: bytes, key: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with raises(DataError, key) as caught:
        read_rows(str(file))
    assert caught.value.problems[0].where.startswith(str(file))


def test_read_rows__hub_id_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with raises(DataError, "path") as caught:
        read_rows("org/none")
    assert caught.value.problems[0].where == "org/none (split train)"
    assert "network" in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("What is  2?", "what is 2?\n", True),
        ("ﬁne", "fine", True),
        ("What is 2?", "What is 3?", False),
    ],
)
def test_row_key__ignores_form_only(a: str, b: str, same: bool) -> None:
    one, two = (chat(("user", text), ("assistant", "y")) for text in (a, b))
    assert (one.key() == two.key()) is same


def test_row_key__depends_on_roles_and_turns() -> None:
    rows = [
        chat(("user", "a"), ("assistant", "b")),
        chat(("assistant", "a"), ("user", "b")),
        chat(("user", "a b")),
        chat(("user", "a"), ("user", "b")),
        Row("a b", None, ""),
    ]
    assert len({row.key() for row in rows}) == len(rows)
