"""Files that are almost right: what cannot be read is named with its line, what is left out is counted, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
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

    def counted(self: ChatFormat, turns: Any, tools: Any = ()) -> Any:
        seen.append(len(turns[0].content))
        return render(self, turns, tools)

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
