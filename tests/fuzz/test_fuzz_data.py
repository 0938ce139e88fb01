"""Hostile data files in every format and packing: rows that can be used as such, or problems that name file and row."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.fuzzing import CASES, FULL, HOSTILE, check, damage, mutate, run_cases
from sweepft.data.files import Location
from sweepft.data.read import read_source
from sweepft.data.reading import Options
from sweepft.evaluation.mt_bench.questions import read_questions

ROWS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "domain": "d"},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
                  {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "1",
                   "function": {"name": "f", "arguments": {"x": 1}}}]}, {"role": "tool", "content": "r", "tool_call_id": "1"},
                  {"role": "assistant", "content": "b", "reasoning_content": "t", "weight": 1}],
     "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"prompt": "a", "completion": "b"}, {"instruction": "a", "input": "", "output": "b"}, {"question": "a", "answer": "b"},
    {"text": "a", "domain": 3}, {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"question_id": 1, "category": "writing", "turns": ["a", "b"], "reference": ["x", "y"]},
)  # fmt: skip
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def _table(rows: list[dict[str, Any]], kind: str) -> bytes:
    try:
        table = pa.Table.from_pylist(
            [{k: json.dumps(v) if k == "domain" else v for k, v in row.items()} for row in rows]
        )
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        table = pa.table({"text": ["a"]})
    out = io.BytesIO()
    if kind == ".parquet":
        try:
            pq.write_table(table, out)
        except pa.ArrowException:
            return out.getvalue()
    else:
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def _contents(kind: str, random: Random) -> bytes:
    rows = [mutate(row, random) if random.random() < 0.7 else row for row in random.choices(ROWS[:-1], k=3)]
    rows = [row if isinstance(row, dict) or kind in (".jsonl", ".json") else {"text": row} for row in rows]
    if random.random() < 0.5:
        rows = [rows[0]] * random.choice((1, 2))
    match kind:
        case ".jsonl":
            return "\n".join(map(json.dumps, rows)).encode()
        case ".json":
            return json.dumps(random.choice((rows, rows[0], {"data": rows}, {"text": rows}))).encode()
        case ".csv" | ".tsv":
            out = io.StringIO()
            writer = csv.DictWriter(
                out,
                sorted(rows[0], key=str),
                extrasaction="ignore",
                delimiter="," if kind == ".csv" else "\t",
            )
            writer.writeheader()
            writer.writerows(rows)
            return out.getvalue().encode("utf-8", "surrogatepass")
        case _:
            return _table(rows, kind)


@pytest.mark.parametrize("cases", [150, pytest.param(CASES, marks=FULL)])
def test_fuzz__data_files(cases: int, tmp_path: Path) -> None:
    def case(random: Random) -> None:
        kind = random.choice((".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"))
        packing = random.choice(("", "", ".gz", ".bz2", ".xz"))
        data = _contents(kind, random)
        data = damage(data, random) if random.random() < 0.3 else data
        data = PACKINGS[packing](data)
        data = damage(data, random) if packing and random.random() < 0.3 else data
        file = tmp_path / f"rows{kind}{packing}"
        file.write_bytes(data)
        options = Options(
            format=random.choice((None, None, "messages", "text", "alpaca")),
            columns=random.choice(({}, {}, {"text": "a.b"}, {"prompt": "question"})),
            train_on=random.choice(("all", "last", ("user",))),
        )
        split = random.choice(
            (None, None, None, "train[:1]", "train[50%:]", "x", "train[99999999999999999999:]")
        )
        source = read_source(Location(str(file), split=split), options)
        for row in source.rows:
            row.key(), row.written(), row.has_target
        list(source.notes()), list(source.warnings())

    check(run_cases(cases, cases, tmp_path, case), cases)


@pytest.mark.parametrize("cases", [50, pytest.param(CASES, marks=FULL)])
def test_fuzz__questions_of_mt_bench(cases: int, tmp_path: Path) -> None:
    def case(random: Random) -> None:
        row = mutate(ROWS[-1], random, HOSTILE) if random.random() < 0.8 else ROWS[-1]
        data = json.dumps(row).encode() + b"\n"
        data = damage(data, random) if random.random() < 0.2 else data
        file = tmp_path / random.choice(("q.jsonl", "q.jsonl.gz"))
        data = gzip.compress(data) if file.suffix == ".gz" else data
        file.write_bytes(damage(data, random) if random.random() < 0.2 else data)
        read_questions(file, file if random.random() < 0.3 else None)

    check(run_cases(cases, cases, tmp_path, case), cases)
