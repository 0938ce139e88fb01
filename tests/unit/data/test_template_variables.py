"""Variables of a chat template: given by the spec or by a row, in training and in the exported tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_templates import TOKENIZERS
from test_token_policy import loaded, ready, with_template  # noqa: F401
from transformers import AutoTokenizer

from support import chat_templates as styles
from support.errors import raises
from support.rows import chat
from sweepft.data.encode import Encoder
from sweepft.data.read import read_source
from sweepft.data.rows import Row
from sweepft.data.template_choice import with_defaults
from sweepft.data.templates import ChatFormat
from sweepft.errors import DataError

OFF = {"enable_thinking": False}
SAID = (("user", "2 and 2?"), ("assistant", "4"))
MESSAGES = [turn.message() for turn in chat(*SAID).content]  # type: ignore[union-attr]
EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    "begin", ["", "\n", "\n\n", "  {% if messages %}x{% endif %}", "\n  {%- set y = 1 %}", "a"]
)
@pytest.mark.parametrize(
    "value",
    [
        False,
        True,
        0,
        -1,
        1e-7,
        "",
        "a 'b' \"c\" \\\n {{ d }} {% e %}",
        "日本 🙂",
        [1, "x", [True]],
        {"a": {"b": 1.5}},
    ],
)
def test_defaults__render_as_variables_do(begin: str, value: Any) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = begin + "{{- v | tojson }}{% for m in messages %}{{ v }}{% endfor %}"

    def rendered(text: str, **variables: Any) -> str:
        return render_jinja_template(conversations=[MESSAGES], chat_template=text, **variables)[0][0]

    assert rendered(with_defaults(template, {"v": value})) == rendered(template, v=value)
    assert rendered(with_defaults(template, {"v": value}), v=5) == rendered(template, v=5)


def test_spec__variables_are_those_of_training_and_of_the_export(ready: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = with_template(ready, tmp_path / "model", styles.SWITCH)
    plain = AutoTokenizer.from_pretrained(folder)
    found = loaded(folder, chat_template_kwargs=OFF)
    assert found.chat is not None
    row = chat(*SAID)
    rendered = found.chat.render(row.content)
    expected = plain.apply_chat_template(MESSAGES, tokenize=False, **OFF)
    assert rendered.text == expected != plain.apply_chat_template(MESSAGES, tokenize=False)
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["4<|im_end|>"], (
        "the prompt holds the empty block"
    )
    exported = AutoTokenizer.from_pretrained(found.save(tmp_path / "cache"))
    for prompt in (False, True):
        asked = {"tokenize": False, "add_generation_prompt": prompt}
        assert exported.apply_chat_template(MESSAGES[:1], **asked) == plain.apply_chat_template(
            MESSAGES[:1], **asked, **OFF
        )
        assert exported.apply_chat_template(
            MESSAGES[:1], **asked, enable_thinking=True
        ) == plain.apply_chat_template(MESSAGES[:1], **asked)


def test_spec__variable_that_the_template_lacks(ready: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = with_template(ready, tmp_path / "model", styles.SWITCH)
    with raises(DataError, "model.chat_template_kwargs") as caught:
        loaded(folder, chat_template_kwargs={"enable_thinkin": False})
    assert "enable_thinkin" in str(caught.value)


def test_rows__variables_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    message = '"messages": [{"role": "user", "content": "2 and 2?"}, {"role": "assistant", "content": "4"}]'
    given = (
        "",
        ', "chat_template_kwargs": {"enable_thinking": false}',
        ', "chat_template_kwargs": "{\\"other\\": 1}"',
    )
    file.write_text("".join(f"{{{message}{more}}}\n" for more in given))
    rows = read_source(str(file)).rows
    assert [row.variables for row in rows] == [{}, OFF, {"other": 1}]
    assert len({row.key() for row in rows}) == 1
    assert len({row.written() for row in rows}) == 3
    tokenizer = TOKENIZERS["byte-level"]
    for template, off in ((styles.SWITCH, 1), (with_defaults(styles.SWITCH, OFF), 3)):
        encoder = Encoder(tokenizer, ChatFormat(tokenizer, template), 99, "drop")
        encoded = list(encoder.encode(rows))
        texts = [tokenizer.decode(ids) for ids, _, _ in encoded]
        assert sum(EMPTY in text for text in texts) == off
        assert [tokenizer.decode(ids[mask]).strip() for ids, mask, _ in encoded] == ["4<|im_end|>"] * 3
        assert encoder.counts["variables_not_read"] == 1
        assert encoder.example["variables_not_read"] == f"{file}:3: other"


def test_rows__variables_that_the_template_cannot_take() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    strict = "{%- if style %}{{- raise_exception('no such style') }}{%- endif %}" + styles.CHATML
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, strict), 99, "drop")
    row = chat(*SAID)
    bad = Row(row.content, None, "d.jsonl:2", variables={"style": "odd"})
    assert len(list(encoder.encode([row, bad]))) == 1
    assert encoder.counts["refused"] == 1
    assert "no such style" in encoder.example["refused"]
