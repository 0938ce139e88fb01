"""Formats and keys of rows: each is used, refused with a remedy, or reported, in every kind of file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.errors import raises
from sweepft.data import formats
from sweepft.data.read import Source, read_source
from sweepft.data.reading import Options
from sweepft.errors import DataError
from sweepft.spec.row_source import RowFormat

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
CALL = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"n": 0}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FUNCTION = {"name": "f", "arguments": '{"n": 0}'}
CALLED = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"n": 0}}}]}
SCHEMA = {"name": "f", "parameters": {"type": "object"}}
Read = Callable[..., Source]


@pytest.fixture(params=["jsonl", "json", "jsonl.gz", "parquet", "hub"])
def read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Writes records to a file of each kind, or to a data set of the hub, and reads them."""
    import datasets

    kind = request.param

    def read_back(*records: dict[str, Any], **options: Any) -> Source:
        file = tmp_path / f"d.{kind}"
        if kind == "hub":
            found = datasets.Dataset.from_list(list(records))
            monkeypatch.setattr(datasets, "load_dataset", lambda path, split: found)
            return read_source("org/rows", Options(**options))
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(list(records)), file)
        elif kind == "json":
            file.write_text(json.dumps(records))
        else:
            text = "".join(json.dumps(record) + "\n" for record in records)
            file.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
        return read_source(str(file), Options(**options))

    return read_back


def shown(source: Source, row: int = 0) -> Any:
    """Role, text, whether it is learned, and further keys of each turn."""
    content = source.rows[row].content
    if isinstance(content, str):
        return content
    return [
        (
            t.role[0] + ("" if t.learned or t.role != "assistant" else "-"),
            t.content,
            *([dict(t.extra)] if t.extra else []),
        )
        for t in content
    ]


CHAT = [("u", "hi"), ("a", "yo")]


@pytest.mark.parametrize(
    ("record", "content", "notes"),
    [
        ({"messages": [USER, ANSWER]}, CHAT, []),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}, CHAT, ["ShareGPT"]),
        ({"conversations": [USER, ANSWER]}, CHAT, ["ShareGPT"]),
        ({"instruction": "hi", "input": "", "output": "yo"}, CHAT, ["Alpaca"]),
        ({"instruction": "hi", "input": "you", "output": "yo"}, [("u", "hi\nyou"), ("a", "yo")], ["Alpaca"]),
        ({"instruction": "hi", "output": "yo", "system": "s"}, [("s", "s"), *CHAT], ["Alpaca"]),
        ({"instruction": "hi", "output": "yo", "history": [["a", "b"]]}, [("u", "a"), ("a", "b"), *CHAT], ["Alpaca"]),
        ({"instruction": "hi", "context": "", "response": "yo", "category": "qa"}, CHAT, ["Alpaca", "category"]),
        ({"question": "hi", "answer": "yo"}, CHAT, ["question and answer"]),
        ({"system_prompt": "s", "question": "hi", "response": "yo", "id": "1"}, [("s", "s"), *CHAT], ["read as", "id"]),
        ({"query": "hi", "response": "yo"}, CHAT, ["question and answer"]),
        ({"problem": "hi", "solution": "yo", "messages": [USER, ANSWER]}, CHAT, ["problem, solution"]),
        ({"input": "hi", "output": "yo"}, CHAT, ["question and answer"]),
        ({"prompt": "hi", "completion": "yo"}, CHAT, []),
        ({"prompt": "hi", "response": "yo"}, CHAT, []),
        ({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}, [("u", "hi"), ("a-", "yo"), *CHAT], []),
        ({"prompt": "hi", "messages": [USER, ANSWER]}, CHAT, ["prompt"]),
        ({"system": "s", "prompt": "hi", "completion": "yo"}, [("s", "s"), *CHAT], []),
        ({"system": "s", "messages": [{"role": "system", "content": "s"}, ANSWER]}, [("s", "s"), ("a", "yo")], []),
        ({"system": "", "history": [], "tools": [], "images": None, "text": "t"}, "t", []),
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]},
         [("u", "hi"), ("a-", "yo"), *CHAT], []),
        ({"messages": [USER, {**ANSWER, "train": False}, USER, {**ANSWER, "train": True}]},
         [("u", "hi"), ("a-", "yo"), *CHAT], []),
        ({"messages": [{**USER, "training": False}, {**ANSWER, "training": False}]}, [("u", "hi"), ("a-", "yo")], []),
        ({"messages": [{**USER, "loss": None}, {**ANSWER, "loss": 0.0}]}, [("u", "hi"), ("a-", "yo")], []),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "r"}]},
         [("u", "hi"), ("a", "yo", {"reasoning_content": "r"})], []),
        ({"messages": [USER, {**ANSWER, "thinking": "r", "reasoning": ""}]},
         [("u", "hi"), ("a", "yo", {"thinking": "r"})], []),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                       {"role": "tool", "content": "0", "tool_call_id": "c0"}], "tools": [TOOL]},
         [("u", "hi"),
          ("a", "", {"tool_calls": [{**CALL, "function": {"name": "f", "arguments": {"n": 0}}}]}),
          ("t", "0", {"tool_call_id": "c0"})], []),
        ({"messages": [{"role": "human", "content": "hi"}, {"role": "gpt", "content": "yo"}]}, CHAT, ["gpt as assistant"]),
        ({"messages": [{"role": "User", "content": "hi"}, {"role": "model", "content": "yo"}]}, CHAT, ["User as user"]),
        ({"messages": [{**USER, "id": "7"}, {**ANSWER, "id": "8"}], "source": "s"}, CHAT, ["source", "messages[].id"]),
        ({"text": "t", "id": 3, "label": 1, "meta": {"a": 1}}, "t", ["id, label, meta"]),
        ({"text": "t", "prompt": "t"}, "t", ["prompt"]),
        ({"messages": [{**USER, "from": "human", "value": "x"}, ANSWER]}, CHAT, ["messages[].from, messages[].value"]),
        ({"text": "t", "labels": 1}, "t", ["labels"]),
        ({"messages": json.dumps([USER, ANSWER])}, CHAT, []),
        ({"messages": str([USER, ANSWER])}, CHAT, []),
        ({"messages": {"role": ["user", "assistant"], "content": ["hi", "yo"]}}, CHAT, []),
        ({"messages": [USER, {"role": "assistant", "content": "", "function_call": FUNCTION},
                       {"role": "function", "content": "0", "name": "f"}], "functions": [SCHEMA]},
         [("u", "hi"), ("a", "", CALLED), ("t", "0", {"name": "f"})], ["function as tool"]),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "function_call", "value": json.dumps(FUNCTION)},
                            {"from": "observation", "value": "0"}], "tools": json.dumps([SCHEMA])},
         [("u", "hi"), ("a", "", CALLED), ("t", "0")], ["ShareGPT"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]},
                       {"role": "assistant", "content": [{"type": "thinking", "thinking": "r"},
                                                         {"type": "text", "text": "yo"}]}]},
         [("u", "hi"), ("a", "yo", {"reasoning_content": "r"})], []),
    ],
)  # fmt: skip
def test_rows__are_read(read: Read, record: dict[str, Any], content: Any, notes: list[str]) -> None:
    source = read(record)
    first, *found = source.notes()
    assert shown(source) == content
    assert "read as" in first
    for note in notes:
        assert note in " ".join([first, *found])
    if not notes:
        assert found == []


@pytest.mark.parametrize(
    "arguments", [{}, {"arguments": None}, *({"arguments": x} for x in ("null", "", " ", "{}"))]
)
def test_tool_calls__without_arguments_have_an_empty_object(read: Read, arguments: dict[str, Any]) -> None:
    """What the template writes is then valid JSON, and can be iterated."""
    for call in ({"function": {"name": "f", **arguments}}, {"name": "f", **arguments}):
        source = read({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call]}]})
        [(_, answer)] = [row.content for row in source.rows]
        assert not isinstance(answer, str)
        [one] = answer.extra["tool_calls"]
        assert one.get("function", one) == {"name": "f", "arguments": {}}


@pytest.mark.parametrize(
    ("record", "key", "says"),
    [
        ({"messages": [USER, {**ANSWER, "weight": -0.5}]}, "messages.1.weight", "from 0 to 1000"),
        ({"messages": [USER, {**ANSWER, "weight": "0.5"}]}, "messages.1.weight", "a number"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5, "loss_weight": 0.7}]}, "messages.1", "disagree"),
        ({"messages": [USER, {**ANSWER, "train": 0.5}]}, "messages.1.train", "weight"),
        ({"messages": [USER, {**ANSWER, "train": "no"}]}, "messages.1.train", "false or true"),
        ({"messages": [{**USER, "weight": 1}, {**ANSWER, "weight": 1}]}, "messages.0.weight", "only assistant"),
        ({"messages": [USER, {**ANSWER, "weight": 1, "train": False}]}, "messages.1", "disagree"),
        ({"messages": [USER, {**ANSWER, "mask": True}]}, "messages.1.mask", "weight: 0"),
        ({"messages": [USER, {**ANSWER, "loss_mask": 0}]}, "messages.1.loss_mask", "weight: 0"),
        ({"messages": [{**USER, "tools": [TOOL]}, ANSWER]}, "messages.0.tools", "column `tools`"),
        ({"question": "x", "answer": "y", "reasoning": "r"}, "reasoning", "format: question_answer"),
        ({"prompt": "x", "completion": "y", "tool_calls": [CALL]}, "tool_calls", "messages"),
        ({"messages": [USER, {**ANSWER, "train_detail": [1]}]}, "messages.1.train_detail", "split the turn"),
        ({"messages": [USER, {**ANSWER, "thinking": "a", "reasoning": "b"}]}, "messages.1", "differ"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages.1.content", "tool_calls"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": ["x"]}]}, "messages.1.tool_calls", "tool calls"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "messages.1.tool_calls", "name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
         "messages.0.content.0", "only text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image", "text": None}]}]},
         "messages.0.content.1", "only text"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "t"}]}]},
         "messages.0.content", "reasoning_content"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "t"}]}]},
         "messages.0.content.0", "tool_calls"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "function_call", "value": "x"}]},
         "conversations.1.value", "JSON"),
        ({"messages": [USER, ANSWER], "functions": [{"name": "f"}], "tools": [TOOL]}, "tools", "keep one"),
        ({"messages": [USER, ANSWER], "function_call": "auto"}, "function_call", "message"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [CALL], "function_call": {"name": "f"}}]}, "messages.1", "keep one"),
        ({"messages": [USER, ANSWER], "tools": "no json"}, "tools", "list of JSON schemas"),
        ({"text": "t", "tools": [TOOL]}, "tools", "messages"),
        ({"text": "t", "system": "s"}, "system", "messages"),
        ({"messages": [{"role": "system", "content": "a"}, ANSWER], "system": "b"}, "system", "keep one"),
        ({"system": "a", "system_prompt": "b", "prompt": "x", "completion": "y"}, "system", "keep one"),
        ({"messages": [USER, ANSWER], "history": [["a", "b"]]}, "history", "messages"),
        ({"instruction": "hi", "output": "yo", "history": ["a"]}, "history", "pairs"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "remove"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"no-name": 1}}, "chat_template_kwargs.no-name", "thinking"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": "enable_thinking"}, "chat_template_kwargs", "enable_thinking"),
        ({"text": "t", "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", "messages"),
        ({"messages": [USER, ANSWER], "weight": 0.5}, "weight", "data.mixture"),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "images", "only text"),
        ({"prompt": "x", "chosen": "a", "rejected": "b"}, "chosen", "completion"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "chosen", "completion"),
        ({"messages": [USER, ANSWER], "chosen": "a"}, "chosen", "format: messages"),
        ({"prompt": "x", "completion": "y", "label": False}, "label", "format: prompt_completion"),
        ({"messages": [USER, ANSWER], "score": 3.5}, "score", "format: messages"),
        ({"question": "x", "answer": "y", "context": "c"}, "context", "question"),
        ({"input_ids": [1, 2], "labels": [1, 2]}, "input_ids", "text"),
        ({"text": "x", "loss_mask": [0, 1]}, "loss_mask", "text"),
        ({"text": "t", "instruction": "x", "output": "y"}, "columns", "`format: alpaca` or `format: text`"),
        ({"text": "t", "prompt": "x", "completion": "y"}, "columns", "`format: prompt_completion` or `format: text`"),
        ({"text": "t", "messages": [USER, ANSWER]}, "columns", "`format: messages` or `format: text`"),
        ({"text": "t", "answer": "y"}, "columns", "`format: text`"),
        ({"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}, "columns", "`format: alpaca`"),
        ({"prompt": "a"}, "completion", "needs `completion`"),
        ({"instruction": "a", "output": None}, "output", "needs `output`"),
        ({"role": "user", "content": "hi"}, "row", "messages"),
        ({"title": "a", "body": "b"}, "columns", "no column"),
    ],
)  # fmt: skip
def test_rows__are_refused_in_the_same_words(read: Read, record: dict[str, Any], key: str, says: str) -> None:
    with raises(DataError, key) as caught:
        read(record, record)
    [problem] = caught.value.problems
    assert "all 2 rows" in problem.rule
    assert says in f"{problem.rule} {problem.remedy}"


@pytest.mark.parametrize(
    ("name", "record", "content"),
    [
        ("text", {"text": "t", "instruction": "x", "output": "y"}, "t"),
        ("alpaca", {"text": "t", "instruction": "x", "output": "y"}, [("u", "x"), ("a", "y")]),
        ("messages", {"text": "t", "messages": [USER, ANSWER]}, CHAT),
        ("messages", {"messages": [USER, ANSWER], "chosen": "a", "rejected": "b", "score": 1}, CHAT),
        ("prompt_completion", {"prompt": "hi", "completion": "yo", "label": False}, CHAT),
        ("question_answer", {"question": "hi", "answer": "yo", "context": "c"}, CHAT),
    ],
)
def test_rows__named_format(read: Read, name: str, record: dict[str, Any], content: Any) -> None:
    source = read(record, format=name)
    assert shown(source) == content
    assert "not used" in " ".join(source.notes())


def test_rows__named_format_that_they_are_not(read: Read) -> None:
    with raises(DataError, "columns") as caught:
        read({"text": "t"}, format="alpaca")
    assert "instruction and output" in caught.value.problems[0].rule


def test_rows__named_format_still_refuses_what_changes_the_loss(read: Read) -> None:
    with raises(DataError, "function_call"):
        read({"messages": [USER, ANSWER], "function_call": "auto"}, format="messages")


def test_rows__unused_columns_are_counted(read: Read) -> None:
    source = read({"text": "a", "id": "1", "topic": "x"}, {"text": "b", "id": "2"}, {"text": "c", "id": "3"})
    _, note = source.notes()
    assert note.endswith("columns not used: id, topic (1 of 3 rows)")


def test_rows__formats_may_be_mixed(read: Read) -> None:
    source = read(
        {"text": "a", "question": None, "answer": None}, {"text": None, "question": "q", "answer": "r"}
    )
    assert [row.form for row in source.rows] == ["text", "chat"]
    [note] = source.notes()
    assert note.endswith("read as text: 1 text, question and answer: 1 row")


def test_rows__tools_reach_the_row(read: Read) -> None:
    for tools in ([TOOL], json.dumps([TOOL])):
        [row] = read({"messages": [USER, ANSWER], "tools": tools}).rows
        assert row.tools == (TOOL,)


@pytest.mark.parametrize(
    ("record", "options", "content"),
    [
        ({"q": "hi", "reply": "yo"}, {"columns": {"prompt": "q", "completion": "reply"}}, CHAT),
        ({"q": "hi", "answers": {"text": "yo"}}, {"columns": {"question": "q", "answer": "answers.text"}}, CHAT),
        ({"prompt": "x", "question": "hi", "answer": "yo"}, {"columns": {"prompt": "question", "completion": "answer"}},
         CHAT),
        ({"dialog": [{"who": "agent", "says": "yo"}]},
         {"columns": {"messages": "dialog", "role": "who", "content": "says"}, "roles": {"agent": "assistant"}}, CHAT[1:]),
        ({"messages": [{"role": "Customer", "content": "hi"}, ANSWER]}, {"roles": {"customer": "user"}}, CHAT),
        ({"question": "hi", "answer": "yo"}, {"system": "s"}, [("s", "s"), *CHAT]),
        ({"question": "hi", "answer": "yo", "system": "own"}, {"system": "s"}, [("s", "own"), *CHAT]),
        ({"persona": "own", "question": "hi", "answer": "yo"}, {"columns": {"system": "persona"}}, [("s", "own"), *CHAT]),
        ({"messages": [USER, ANSWER, USER, ANSWER]}, {"train_on": "last"}, [("u", "hi"), ("a-", "yo"), *CHAT]),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, {"train_on": ("user",)}, [("u", "hi"), ("a-", "yo")]),
    ],
)  # fmt: skip
def test_rows__are_read_as_the_source_says(
    read: Read, record: dict[str, Any], options: dict[str, Any], content: Any
) -> None:
    assert shown(read(record, **options)) == content


@pytest.mark.parametrize(
    ("record", "options", "key"),
    [
        ({"q": "hi"}, {"columns": {"prompt": "q", "completion": "reply"}}, "reply"),
        ({"text": "t"}, {"system": "s"}, "system"),
        ({"question": "hi", "answer": "\ud800"}, {}, "answer"),
        ({"messages": [USER, ANSWER], "tools": [{"name": "\udfff", "parameters": {}}]}, {}, "tools"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"name": "f", "arguments": {"a": "\ud83d"}}]}]}, {},
         "messages.1.tool_calls"),
        ({"text": "t", "domain": "\ud800"}, {}, "domain"),
        ({"messages": [{"role": "\ud800", "content": "a"}]}, {}, "messages.0.role"),
    ],
)  # fmt: skip
def test_rows__cannot_be_read_as_the_source_says(
    tmp_path: Path, record: dict[str, Any], options: dict[str, Any], key: str
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(record))
    with raises(DataError, key):
        read_source(str(tmp_path / "d.jsonl"), Options(**options))


def test_rows__unusual_turns_are_named(tmp_path: Path) -> None:
    rows: list[list[dict[str, Any]]] = [
        [USER, ANSWER],
        [ANSWER, USER],
        [USER, USER, ANSWER],
        [USER, {"role": "tool", "content": "0"}, ANSWER],
        [USER, {**ANSWER, "content": " "}, USER, ANSWER],
    ]
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    warnings = list(read_source(str(file)).warnings())
    assert [int(warning.rpartition(":")[2]) for warning in warnings] == [2, 3, 4, 5]
    assert all("1 of 5 rows" in warning for warning in warnings)


def test_formats__are_those_of_the_spec() -> None:
    assert set(get_args(RowFormat)) == set(formats.TITLES) == {f.name for f in formats.FORMATS}
