"""Files that are almost right: what cannot be read is named with its line, what is left out is counted, nothing is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_templates import TOKENIZERS

from support.rows import chat
from sweepft.data.encode import Encoder
from sweepft.data.read import read_source
from sweepft.data.rows import Row
from sweepft.data.template_choice import BUILT_IN
from sweepft.data.templates import ChatFormat
from sweepft.errors import DataError

GOOD = [
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"prompt": "a", "completion": "b"}',
    '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]}',
    '{"text": "nul \\u0000 inside"}',
]
BAD = [
    '{"prompt": "a", "completion": "b"',
    '{"prompt": "a"}',
    '{"text": "lone \\ud83d surrogate"}',
    "\0" * 9,
    '{"messages": [{"role": "user", "content": 5}]}',
    '{"text": "a", "text": "b"}',
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([*GOOD, *BAD, ""]), min_size=1, max_size=12))
@example(["", "\0" * 9])
def test_lines__each_is_a_row_or_in_an_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    file = tmp_path_factory.mktemp("lines") / "d.jsonl"
    file.write_text("\n".join(lines) + "\n")
    bad = [n for n, line in enumerate(lines, 1) if line in BAD]
    good = [n for n, line in enumerate(lines, 1) if line in GOOD]
    if not bad:
        if good:
            assert [row.where for row in read_source(str(file)).rows] == [f"{file}:{n}" for n in good]
        return
    with pytest.raises(DataError) as caught:
        read_source(str(file))
    problems = caught.value.problems
    if [problem.where for problem in problems] == [str(file)]:  # no text: the file as a whole is refused
        assert "\0" * 9 in lines
        return
    named = {int(problem.where.rpartition(":")[2]) for problem in problems}
    for problem in problems:
        _, more, places = problem.rule.rpartition("rows: ")
        named |= {int(n) for n in places.split(",") if more and n.strip().isdigit()}
    whole = any("the same in all" in problem.rule for problem in problems)
    assert named <= set(bad)
    assert whole or named == set(bad) or len(bad) > 5
    assert all(problem.remedy for problem in problems)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_giant_row__is_left_out_and_named_without_being_tokenised(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = TOKENIZERS[kind]
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, BUILT_IN["plain"]), 16, "drop")
    giant = "word " * 5_000
    fits = chat(("user", "a"), ("assistant", "b"))
    seen: list[int] = []
    render = ChatFormat.render

    def counted(self: ChatFormat, turns: Any, *rest: Any) -> Any:
        seen.append(len(turns[0].content))
        return render(self, turns, *rest)

    monkeypatch.setattr(ChatFormat, "render", counted)
    rows = [chat(("user", giant), ("assistant", "b"), where="d.jsonl:7"), Row(giant, None, "d.jsonl:8"), fits]
    assert len(list(encoder.encode(rows))) + encoder.counts["over_length"] == 3
    assert encoder.counts["over_length"] >= 2
    assert encoder.example["over_length"] == "d.jsonl:7: 25,000 characters"
    assert seen == [1]


def test_broken_giant_line__is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(
        '{"text": "fine"}\n' + json.dumps({"text": "x" * 3_000_000})[:-1] + '\n{"text": "fine"}\n'
    )
    with pytest.raises(DataError) as caught:
        read_source(str(file))
    [problem] = caught.value.problems
    assert problem.where == f"{file}:2"
    assert len(str(problem)) < 500


ROW = '{"prompt": "a", "completion": "b"}'


@pytest.mark.parametrize(
    ("name", "text", "where", "key", "says"),
    [
        ("d.csv", 'prompt,completion\na,b\n"c,d\ne,f\n', ":3", "file", "never closed"),
        ("d.csv", '\n\nprompt,completion\na,b\nc,d,e\n', ":5", "row", "it has 3"),
        ("d.csv", 'prompt,completion\na,say "no" now\n"x" y,z\n', ":3", "file", "double quotes inside"),
        ("d.csv", "prompt,completion,completion\na,b,c\n", ":1", "file", "'completion' twice"),
        ("d.csv", "prompt,completion\na,\n", ":2", "completion", "missing or null"),
        ("d.json", f"[\n{ROW},\n{ROW},\n]", ":4", "file", "must not end in a comma"),
        ("d.jsonl", f"{ROW}\n{ROW}{ROW}\n", ":2", "row", "a line of its own"),
        ("d.jsonl", '{"text": "a\tb"}\n', ":1", "row", "U+0009"),
        ("d.jsonl", f'{ROW}\n{{"text": "a\nb"}}\n', ":2", "row", "line breaks in texts"),
        ("d.jsonl", "{“text”: “a”}\n", ":1", "row", "straight quotes"),
        ("d.jsonl", '{"prompt": NaN, "completion": "b"}\n', ":1", "prompt", "missing or null"),
        ("d.jsonl", '{"messages": {"role": "user", "content": "a"}}\n', ":1", "messages", "must be a list"),
        ("d.jsonl", '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]}\n',
         ":1", "messages.0.content.1", "only text"),
    ],
)  # fmt: skip
def test_files__say_where_and_what_to_do(
    tmp_path: Path, name: str, text: str, where: str, key: str, says: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_source(str(file))
    problem = caught.value.problems[0]
    assert (problem.where, problem.key) == (f"{file}{where}", key)
    assert says in f"{problem.rule} {problem.remedy}"
    assert problem.remedy


def test_files__encodings_empty_archives_and_mixed_columns(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (tmp_path / "d.jsonl").write_bytes(f"{ROW}\n".encode(encoding))
        with pytest.raises(DataError, match=encoding[:6].upper()):
            read_source(str(tmp_path / "d.jsonl"))
    whole = gzip.compress(f"{ROW}\n".encode() * 50)
    for content, says in (
        (gzip.compress(b""), "at least one row"),
        (b"", "at least one row"),
        (whole[:-9], "complete"),
    ):
        (tmp_path / "d.jsonl.gz").write_bytes(content)
        with pytest.raises(DataError, match=says):
            read_source(str(tmp_path / "d.jsonl.gz"))
    (tmp_path / "d.jsonl.gz").unlink()
    (tmp_path / "d.jsonl").write_text(f'\ufeff{ROW}\n\ufeff{{"question": "a", "answer": "b"}}\n')
    assert len(read_source(str(tmp_path / "*.jsonl")).rows) == 2
    (tmp_path / "e.jsonl").write_text('{"q": "a", "a": "b"}\n')
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path / "*.jsonl"))
    assert caught.value.problems[0].where == f"{tmp_path / 'e.jsonl'}:1"


def test_parquet__nulls_at_any_depth_are_named(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [
        [user, answer],
        [user, {**answer, "content": None}],
        [user, None],
        None,
        [{**user, "role": None}, answer],
    ]
    pq.write_table(pa.table({"messages": rows}), tmp_path / "d.parquet")
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path / "d.parquet"))
    found = {problem.where.rpartition(" ")[2]: problem.key for problem in caught.value.problems}
    assert found == {"2": "messages.1.content", "3": "messages.1", "4": "columns"}
    assert "5" in str(caught.value)
    pq.write_table(pa.table({"prompt": [b"a"], "completion": ["b"]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="is bytes"):
        read_source(str(tmp_path / "d.parquet"))
