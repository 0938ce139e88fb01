"""Weights of turns: from the rows to the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_templates import TOKENIZERS

from support import chat_templates as styles
from support.rows import chat
from sweepft.data.cache import TokenSet, write_token_set
from sweepft.data.encode import Encoder
from sweepft.data.read import read_source
from sweepft.data.rows import Row, Turn
from sweepft.data.template_choice import BUILT_IN
from sweepft.data.templates import ChatFormat

SAID = (
    Turn("user", "2 and 2?"),
    Turn("assistant", "It is four.", weight=0.5),
    Turn("user", "Sure?"),
    Turn("assistant", "Let me see", learn=False, weight=0.25),
    Turn("user", "So?"),
    Turn("assistant", "Yes, 4.", weight=3.0),
    Turn("user", "Bye"),
    Turn("assistant", "Bye bye"),
)


@pytest.mark.parametrize(
    "template", [BUILT_IN["chatml"], styles.CHATML, styles.LLAMA3, styles.MISTRAL, styles.NO_END]
)
def test_encoder__each_target_has_the_weight_of_its_turn(template: str) -> None:
    tokenizer = TOKENIZERS["byte-level"]

    def masks(row: Row) -> list[Any]:
        encoder = Encoder(tokenizer, ChatFormat(tokenizer, template), 4096, "drop")
        [(_, mask, _)] = encoder.encode([row])
        return mask

    found = masks(chat(*SAID))
    assert found.dtype == np.float32
    expected = np.zeros(len(found))
    for turn in SAID:
        if turn.learned:  # the mask of a row that learns this turn alone
            alone = [
                Turn(t.role, t.content, learn=t is turn or None if t.role != "assistant" else t is turn)
                for t in SAID
            ]
            expected += turn.weight * masks(chat(*alone))
    np.testing.assert_array_equal(found, expected)
    plain = masks(chat(*(Turn(t.role, t.content, t.learn) for t in SAID)))
    assert plain.dtype == np.bool_
    np.testing.assert_array_equal(plain, found != 0)


def test_encoder__answers_that_the_template_joins_must_have_one_weight() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    joined = (
        "{%- for m in messages %}{%- if m['role'] == 'user' %}{{- '<|im_start|>' + m['content'] }}{%- else %}"
        "{%- if not loop.previtem or loop.previtem['role'] == 'user' %}{{- '<|im_start|>: ' }}{%- endif %}"
        "{{- m['content'] }}{%- if loop.last or loop.nextitem['role'] == 'user' %}{{- '<|im_end|>' }}{%- endif %}"
        "{%- endif %}{%- endfor %}"
    )
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, joined), 4096, "drop")
    both = [Turn("user", "a"), Turn("assistant", "one two "), Turn("assistant", "three four")]
    rows = [chat(*both), chat(*both[:2], Turn("assistant", "three four", weight=0.5), where="d:2")]
    masks = [mask for _, mask, _ in encoder.encode(rows)]
    if len(masks) == 2:  # each answer has targets of its own
        assert set(np.unique(masks[1]).tolist()) == {0.0, 0.5, 1.0}
        np.testing.assert_array_equal(masks[0], masks[1] != 0)
    else:
        assert encoder.example["refused"].startswith("d:2: ")


def test_rows__weights_are_read_and_change_the_row_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    user = {"role": "user", "content": "a"}
    answers = [
        {"weight": 0.5},
        {"loss_weight": 2},
        {"weight": 1.0},
        {"weight": 0.0},
        {"weight": 0.5, "train": True},
        {},
    ]
    rows = [{"messages": [user, {"role": "assistant", "content": "b", **more}]} for more in answers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_source(str(file)).rows
    assert [(r.content[1].learned, r.content[1].weight) for r in read] == [  # type: ignore[union-attr]
        (True, 0.5), (True, 2.0), (True, 1.0), (False, 1.0), (True, 0.5), (True, 1.0),
    ]  # fmt: skip
    assert len({row.key() for row in read}) == 1
    assert len({row.written() for row in read}) == 4


def test_token_set__rows_before_the_first_weight_have_weight_1(tmp_path: Path) -> None:
    ids = np.arange(4)
    plain = np.array([False, True, False, True])
    weights = np.array([0, 0.5, 0, 2], np.float32)
    found = write_token_set(
        tmp_path / "set",
        [(ids, plain, None), (ids, weights, "a"), (ids, plain, None)],
        digest="d",
        vocab_size=9,
    )
    assert found.weighted
    assert found.weights.tolist() == [2.0, 2.5, 2.0]
    assert found.targets.tolist() == [2, 2, 2]
    assert [found.weighted_row(i)[1].tolist() for i in range(3)] == [
        plain.tolist(),
        weights.tolist(),
        plain.tolist(),
    ]
    assert [found.row(i)[1].tolist() for i in range(3)] == [
        plain.tolist(),
        (weights > 0).tolist(),
        plain.tolist(),
    ]
    again = write_token_set(tmp_path / "plain", [(ids, plain, None)], digest="d", vocab_size=9)
    assert (again.weighted, again.weighted_row(0)[1].dtype, again.weights.tolist()) == (
        False,
        np.bool_,
        [2.0],
    )
    assert not (again.path / "weights.bin").exists()
    meta = json.loads((again.path / "meta.json").read_text())
    del meta["weighted"]  # as caches were written until now
    (again.path / "meta.json").write_text(json.dumps(meta))
    assert TokenSet(again.path).row(0)[1].tolist() == plain.tolist()
