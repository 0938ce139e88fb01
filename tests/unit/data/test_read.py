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
from sweepft.data import formats
from sweepft.data.files import Location
from sweepft.data.read import read_source
from sweepft.data.reading import Options
from sweepft.data.rows import Row
from sweepft.errors import DataError

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
CHAT = turns(("user", "hi"), ("assistant", "yo"))


def lines(*records: Any) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def one(file: Path, **options: Any) -> Row:
    [row] = read_source(str(file), Options(**options)).rows
    return row


@pytest.mark.parametrize(
    ("record", "content"),
    [
        ({"messages": MESSAGES}, CHAT),
        ({"prompt": "hi", "completion": "yo"}, CHAT),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, CHAT),
        ({"text": "some text"}, "some text"),
        ({"messages": None, "text": "some text"}, "some text"),
        ({"messages": [{**MESSAGES[0], "name": None}, {**MESSAGES[1], "tool_calls": None}]}, CHAT),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "yo"}]}]},
            turns(("assistant", "yo")),
        ),
        ({"messages": []}, ()),
    ],
)
def test_read_source__forms(tmp_path: Path, record: dict[str, Any], content: Any) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(record))
    assert one(file) == Row(content, None, f"{file}:1")


@pytest.mark.parametrize(
    ("own", "given", "domain"),
    [
        (None, None, None),
        ("a", None, "a"),
        (None, "b", "b"),
        ("a", "b", "b"),
        (5, None, "5"),
        (1.5, "b", "b"),
    ],
)
def test_read_source__domain(tmp_path: Path, own: Any, given: str | None, domain: str | None) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines({"text": "x", "domain": own}))
    assert one(file, domain=given).domain == domain


def test_read_source__same_rows_from_every_file_type(tmp_path: Path) -> None:
    records = [{"messages": MESSAGES, "domain": "a"}, {"messages": MESSAGES[::-1], "domain": None}]
    (tmp_path / "a.jsonl").write_text(lines(*records))
    (tmp_path / "b.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "c.json").write_text(lines(*records))
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines(*records).encode()))
    (tmp_path / "e.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(*records).encode())
    (tmp_path / "g.jsonl").write_text(lines(records[0], "", records[1]).replace("\n", "\r\n"))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "h.parquet")
    (tmp_path / "i.jsonl").write_text(json.dumps(records))
    (tmp_path / "j.jsonl").write_bytes(gzip.compress(lines(*records).encode()))
    (tmp_path / "k.JSONL").write_text(lines(*records))
    read = {p.name: read_source(str(p)).rows for p in sorted(tmp_path.iterdir())}
    assert len(read) == 11
    for rows in read.values():
        assert [(r.content, r.domain) for r in rows] == [(CHAT, "a"), (CHAT[::-1], None)]
    assert read["g.jsonl"][1].where == f"{tmp_path}/g.jsonl:3"
    assert read["h.parquet"][1].where == f"{tmp_path}/h.parquet: row 2"
    assert read["i.jsonl"][1].where.endswith("row 2")


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    made = {"role": "assistant", "content": None, "tool_calls": [{"id": "c0", "function": function}]}
    return {"messages": [MESSAGES[0], made]}


def tool(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "tools": [{"function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}]
    }


def test_read_source__same_tool_calls_from_every_file_type(tmp_path: Path) -> None:
    """A table, and JSON Lines written from one, give every call the arguments of all calls."""
    city, unit = {"type": "string"}, {"type": "string", "default": "C"}
    records = [
        call({"city": "Rome", "where": {"zip": "1"}}) | tool({"city": city}),
        call({"where": {"land": "it"}, "unit": "F"}) | tool({"city": city, "unit": unit}),
        call({"city": "Oslo", "unit": None}) | tool({"unit": unit | {"default": None}}),
    ]
    table = pa.Table.from_pylist(records)
    (tmp_path / "a.jsonl").write_text(lines(*records))
    pq.write_table(table, tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text(lines(*table.to_pylist()))
    read = [read_source(str(path)) for path in sorted(tmp_path.iterdir())]
    first, *others = [[row.written() for row in source.rows] for source in read]
    assert others == [first, first]
    assert ": null" not in "".join(first)
    noted = [[note for note in source.notes() if "are null" in note] for source in read]
    assert ["messages[].tool_calls (1 rows), tools (1 rows)" in "".join(note) for note in noted] == [
        True,
        False,
        False,
    ]
    assert noted[2]


def test_read_source__null_in_json_text_is_kept(tmp_path: Path) -> None:
    text = '{"city": "Rome", "unit": null}'
    (tmp_path / "a.jsonl").write_text(lines(call(text)))
    pq.write_table(pa.Table.from_pylist([call(text)]), tmp_path / "b.parquet")
    for path in sorted(tmp_path.iterdir()):
        source = read_source(str(path))
        [row] = source.rows
        assert not isinstance(row.content, str)
        [made] = row.content[-1].extra["tool_calls"]
        assert made["function"]["arguments"] == {"city": "Rome", "unit": None}
        assert not [note for note in source.notes() if "are null" in note]


GOOD = json.dumps({"text": "fine"})


@pytest.mark.parametrize(
    ("line", "says", "remedy"),
    [
        ('{"text": "no end', "valid JSON", "line"),
        ('["a", "list"]', "object of columns", "messages"),
        ("42", "object of columns", "messages"),
        ('{"prompt": "x"}', "needs `completion`", "completion"),
        ('{"prompt": "x", "completion": null}', "needs `completion`", "completion"),
        ('{"prompt": "x", "completion": NaN}', "needs `completion`", "completion"),
        ('{"text": 5}', "must be text", "quotes"),
        ('{"text": "x", "domain": 5.5}', "domain must be text", "domain: NAME"),
        ('{"messages": "hi"}', "list of messages", "messages"),
        ('{"messages": ["hi"]}', "`role` and `content`", "messages"),
        ('{"messages": [{"role": 3, "content": "hi"}]}', "role must be text", "assistant"),
        ('{"messages": [{"role": ["user"], "content": "hi"}]}', "role must be text", "assistant"),
        ('{"messages": [{"role": "user", "content": null}]}', "must be text", "text"),
        (
            '{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}',
            "tool calls",
            "tool_calls",
        ),
        ('{"prompt": 3, "completion": "y"}', "must be text", "text"),
        ('{"text": "\\ud800"}', "valid Unicode", "character"),
        ('{"text": "a", "text": "b"}', "a key twice", "one of the two"),
        ('{"text": "x"},', "comma", "sed"),
        ("{'text': 'x'}", "Python literal", "json.dumps"),
        ('{"text": "x"}\r{"text": "y"}', "carriage return", "tr "),
        ("[" * 100_000, "valid JSON", "line"),
    ],
)
def test_read_source__names_the_line_of_a_broken_row(
    tmp_path: Path, line: str, says: str, remedy: str
) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(GOOD, line, GOOD))
    with pytest.raises(DataError) as caught:
        read_source(str(file))
    assert says in str(caught.value)
    [problem] = caught.value.problems
    assert problem.where == f"{file}:2"
    assert remedy in problem.remedy


def test_read_source__lists_each_fault_once(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(GOOD, "{", GOOD, '{"text": 1}', GOOD, "[", '{"text": [3]}', '{"text": 2}'))
    with pytest.raises(DataError) as caught:
        read_source(str(file))
    problems = caught.value.problems
    assert [p.where for p in problems] == [f"{file}:2", f"{file}:4", f"{file}:7"]
    assert problems[0].rule.endswith("the same in 1 more of 8 rows: 6")
    assert problems[1].rule.endswith("the same in 1 more of 8 rows: 8")
    file.write_text("{\n" * 1000)
    with raises(DataError, "row") as caught:
        read_source(str(file))
    assert "all 1,000 rows" in str(caught.value)


def test_read_source__lists_ten_faults_at_most(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(lines(*({"text": "x", name: [1]} for name in formats.REFUSED)))
    with pytest.raises(DataError) as caught:
        read_source(str(file))
    assert len(caught.value.problems) == 10


ROW = GOOD.encode()


@pytest.mark.parametrize(
    ("name", "content", "key", "says"),
    [
        ("d.jsonl", b"", "rows", "at least one row"),
        ("d.jsonl", b"\n\n", "rows", "at least one row"),
        ("d.jsonl", b"\xef\xbb\xbf\n", "rows", "at least one row"),
        ("d.json", b"[]", "rows", "at least one row"),
        ("d.json", b"{}", "columns", "no column"),
        ("d.json", b"null", "row", "object of columns"),
        ("d.json", b'[{"text": "x"}', "file", "valid JSON"),
        ("d.json", b'[{"text": "x"},\n]', "file", "must not end in a comma"),
        ("d.json", b'[\n{"text": "x"}\n]\n[\n{"text": "x"}\n]', "file", "one list"),
        ("d.json", b'[{"text": "a", "text": "b"}]', "file", "a key twice"),
        ("d.json", b'[\n{"text": "caf\xe9"}\n]', "file", "iconv"),
        ("d.jsonl", b'{"text": "\xff"}\n', "row", "iconv -f WINDOWS-1252"),
        ("d.jsonl.gz", b"no gzip", "file", "not compressed"),
        ("d.jsonl.gz", gzip.compress(ROW * 99, mtime=0)[:-9], "file", "complete"),
        ("d.parquet", b"no parquet", "file", "complete"),
        ("d.csv", b"a,b\n", "rows", "at least one row"),
        ("d.csv", b"prompt,prompt\n1,2\n", "file", "twice"),
        ("d.csv", b'prompt,completion\n1,2\n3,4,5\n"6"\n', "row", "2 values"),
        ("d.csv", b'prompt,completion\n"a,b\n', "file", "quotes"),
        ("d.csv", b"prompt,completion\na,caf\xe9\n", "row", "iconv -f WINDOWS-1252"),
        ("d.TSV", b"a\tb\nc\td\n", "columns", "columns: {prompt"),
        ("d.xlsx", b"x", "path", "to_json"),
        ("d.txt", b"a", "path", ".jsonl"),
        ("d.parquet.gz", b"x", "file", "not compressed"),
        ("d.jsonl.zst", b"\x28\xb5\x2f\xfdx", "file", "complete"),
        ("d.jsonl.xz", b"x", "file", "not compressed"),
        ("d.jsonl", b"PK\x03\x04rest", "file", "archive"),
        ("d.zip", b"PK\x03\x04rest", "file", "archive"),
        ("d.jsonl.gz", gzip.compress(bytes(257) + b"ustar" + bytes(99), mtime=0), "file", "tar archive"),
        ("d.tar", bytes(257) + b"ustar" + bytes(99), "file", "tar archive"),
        ("d.jsonl", b"BZh9", "file", "complete"),
        ("d.jsonl", b'{"text": "x"}\n' + bytes(99) + b'\n{"text": "y"}\n', "row", "NUL bytes"),
        ("d.jsonl", b"PAR1....", "file", ".parquet"),
        ("d.arrow", b"ARROW1..", "file", "complete"),
        ("d.jsonl", b"ARROW1..", "file", ".arrow"),
        ("d.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "file", "git lfs pull"),
        ("d.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "file", "git lfs pull"),
        ("d.json", b"\n<!DOCTYPE html><html></html>", "file", "web page"),
        ("d.jsonl", b"<html><body>", "file", "web page"),
        ("d.json", b'{"data": [{"text": "x"}]}', "file", "jq -c '.data[]'"),
        ("d.json", b'{\n"version": 1,\n"rows": [{"text": "x"}]\n}', "file", "jq -c '.rows[]'"),
        ("d.json", b'{"prompt": ["a", "b"], "completion": ["c", "d"]}', "file", "whole columns"),
        ("d.json", b'{"text": {"0": "a", "1": "b"}}', "file", "whole columns"),
        ("d.json", b'{\n"text": ["a", "b"]\n}', "file", "whole columns"),
        ("d.json", b'{"messages": [[{"role": "user", "content": "x"}]]}', "file", "whole columns"),
        ("d.json", b'{"columns": ["text"], "index": [0], "data": [["a"]]}', "file", "whole columns"),
        ("d.json", b'{\n"text": "x"\n}\n{\n"text": "y"\n}', "file", "jq -c ."),
        ("d.jsonl", b'{"text": "x"}\r{"text": "y"}\r', "row", "tr "),
        ("d.jsonl", b"prompt,completion\na,b\nc,d\n", "row", "all 3 rows"),
    ],
)
def test_read_source__unusable_files(tmp_path: Path, name: str, content: bytes, key: str, says: str) -> None:
    """One problem for the whole file, with what it is or how to convert it."""
    file = tmp_path / name
    file.write_bytes(content)
    with raises(DataError, key) as caught:
        read_source(str(file))
    [problem] = caught.value.problems
    assert problem.where.startswith(str(file))
    assert says in f"{problem.rule} {problem.remedy}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.jsonl.gz"])
def test_read_source__names_the_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    content = lines({"text": "x"}, {"text": "y"}).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with raises(DataError, "file") as caught:
        read_source(str(tmp_path / name))
    [problem] = caught.value.problems
    assert encoding[:6].upper() in problem.rule
    assert "iconv" in problem.remedy


def test_read_source__one_row_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"messages": MESSAGES}, indent=2))
    assert one(tmp_path / "d.json").content == CHAT


def test_read_source__refuses_a_missing_file_and_an_empty_pattern(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "*.jsonl"):
        with raises(DataError, "path"):
            read_source(str(path))


PAIRS = [{"question": "Why, so?", "answer": 'He said "no".\nTwice.'}, {"question": "é 🙂", "answer": "b"}]


def _write(file: Path, pairs: list[dict[str, str]] = PAIRS) -> None:
    """Write pairs as the name of the file says."""
    import pandas as pd

    frame = pd.DataFrame(pairs)
    if ".jsonl" in file.name:
        frame.to_json(file, orient="records", lines=True)
    elif ".csv" in file.name or ".tsv" in file.name:
        frame.to_csv(file, index=False, sep="\t" if ".tsv" in file.name else ",")
    elif file.suffix == ".parquet":
        frame.to_parquet(file)
    elif file.suffix == ".arrow":
        frame.to_feather(file, compression="uncompressed")


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "arrow"])
def test_read_source__kinds_of_files(tmp_path: Path, kind: str, packing: str) -> None:
    import bz2
    import lzma

    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": _zstd, "": bytes}
    file = tmp_path / f"d.{kind}"
    _write(file)
    packed = tmp_path / f"packed.{kind}{packing}"
    packed.write_bytes(pack[packing](file.read_bytes()))
    rows = read_source(str(packed)).rows
    assert [row.content for row in rows] == [
        turns(("user", pair["question"]), ("assistant", pair["answer"])) for pair in PAIRS
    ]
    assert rows[1].where.removeprefix(str(packed)) == {"jsonl": ":2", "csv": ":4", "tsv": ":4"}.get(
        kind, ": row 2"
    )


def _zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def test_read_source__tables_as_programs_write_them(tmp_path: Path) -> None:
    for name, content in {
        "bom.csv": b"\xef\xbb\xbfquestion,answer\r\nq,a\r\n",
        "semicolon.csv": b"question;answer;note\nq;a;\n",
        "messages.csv": b'messages\n"[{""role"": ""user"", ""content"": ""q""}, {""role"": ""assistant"", ""content"": ""a""}]"\n',
        "null.csv": b"instruction,input,output\nq,,a\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert one(tmp_path / name).content == turns(("user", "q"), ("assistant", "a"))


def test_read_source__patterns_and_folders(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "rows"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("train-b.jsonl", "train-a.jsonl.gz", "test.csv", ".hidden/x.jsonl"):
        pairs = [{"question": f"{name} {i}", "answer": "b"} for i in range(4)]
        _write(folder / name.removesuffix(".gz"), pairs)
        if name.endswith(".gz"):
            (folder / name).write_bytes(gzip.compress((folder / name.removesuffix(".gz")).read_bytes()))
            (folder / name.removesuffix(".gz")).unlink()

    def asked(path: Path, **options: Any) -> list[str]:
        rows = read_source(Location(str(path), **options)).rows
        return [row.content[0].content for row in rows if not isinstance(row.content, str)]

    names = [f"{name} {i}" for name in ("train-a.jsonl.gz", "train-b.jsonl") for i in range(4)]
    assert asked(folder / "train*") == names
    with raises(DataError, "path") as caught:  # files of two kinds
        asked(folder)
    assert "pattern" in caught.value.problems[0].remedy
    (folder / "test.csv").unlink()
    _write(folder / "test.jsonl", [{"question": "t", "answer": "b"}])
    assert asked(folder) == names
    assert asked(folder, usual="test") == asked(folder, split="test") == ["t"]
    assert asked(folder, split="train[2:5]+test") == [*names[2:5], "t"]
    for split in ("other", "train[", "train[:10%"):
        with raises(DataError, "split"):
            asked(folder, split=split)

    saved = tmp_path / "saved"
    rows = datasets.Dataset.from_list([{"question": str(i), "answer": "b"} for i in range(10)])
    datasets.DatasetDict(train=rows, test=rows.select([3])).save_to_disk(saved)
    assert asked(saved, split="train[:30%]") == ["0", "1", "2"]
    assert asked(saved, usual="test") == ["3"]
    assert read_source(Location(str(saved), split="train[4:]")).rows[1].where == f"{saved}[train]: row 6"
    rows.save_to_disk(tmp_path / "alone")
    assert len(asked(tmp_path / "alone", usual="test")) == 10


def test_read_source__clone_of_the_hub_by_its_card(tmp_path: Path) -> None:
    card = ["---", "configs:"]
    for config in ("main", "more"):
        _write_pairs(tmp_path / config / "train-0.jsonl", config)
        card += [
            f"- config_name: {config}",
            "  data_files:",
            "  - split: train",
            f"    path: {config}/train-*",
        ]
    (tmp_path / "README.md").write_text("\n".join([*card, "---", "# A card"]))
    assert read_source(Location(str(tmp_path), config="more")).rows[0].content[0].content == "more"
    for config in (None, "none"):
        with raises(DataError, "config") as caught:
            read_source(Location(str(tmp_path), config=config))
        assert "'main', 'more'" in caught.value.problems[0].rule


def _write_pairs(file: Path, question: str) -> None:
    file.parent.mkdir()
    _write(file, [{"question": question, "answer": "b"}])


def test_read_source__hub_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        return datasets.Dataset.from_list(PAIRS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    read_source(Location("org/rows", config="main", revision="v2", split="train[:5%]"))
    read_source(Location("org/rows", usual="test"))
    assert asked == [
        ("org/rows", {"split": "train[:5%]", "name": "main", "revision": "v2"}),
        ("org/rows", {"split": "test"}),
    ]


def test_read_source__hub_id_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with raises(DataError, "path") as caught:
        read_source("org/none")
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
