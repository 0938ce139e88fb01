"""With every template only assistant tokens are learned, including the token that ends the turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from support import chat_templates as styles
from support.errors import raises
from support.rows import chat, turns
from support.tiny import tiny_rows
from sweepft.data.encode import Encoder
from sweepft.data.rows import Row, Turn
from sweepft.data.template_choice import BUILT_IN, choose_template
from sweepft.data.templates import ChatFormat
from sweepft.errors import DataError

Turns = Sequence[tuple[str, str]]


def byte_level(trim_offsets: bool = False) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return _trained(core, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace() -> Any:
    """As sentencepiece models are: spaces become a visible mark, one is put in front."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return _trained(core, special_tokens=["<unk>", *(f"<0x{i:02X}>" for i in range(256))])


def _trained(core: Any, **options: Any) -> Any:
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, **options)
    core.train_from_iterator((t["content"] for r in tiny_rows(200) for t in r["messages"]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.add_tokens(list(styles.SPECIAL), special_tokens=True)
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "trimmed offsets": byte_level(True), "metaspace": metaspace()}

# style: (template, what the model learns of an answer, whether system turns and any role order are taken)
TOOLS = ({"type": "function", "function": {"name": "add"}},)

STYLES = {
    "chatml": (styles.CHATML, "{}<|im_end|>", True),
    "llama-3": (styles.LLAMA3, "{}<|eot_id|>", True),
    "mistral": (styles.MISTRAL, "{}</s>", True),
    "zephyr": (styles.ZEPHYR, "{}</s>", True),
    "granite": (styles.GRANITE, "{}<|end_of_text|>", True),
    "generation prompt that thinks": (styles.THINKS, "{}<|im_end|>", True),
    "no end of turn": (styles.NO_END, "{}\n", True),
    "marks without the end": (styles.MARKED_SHORT, "{}<|im_end|>", True),
    "built-in chatml": (BUILT_IN["chatml"], "{}<|im_end|>", True),
    "built-in plain": (BUILT_IN["plain"], "{}</s>", True),
}
CONVERSATIONS: dict[str, Turns] = {
    "one turn": [("user", "What is 2 plus 2?"), ("assistant", "It is 4.")],
    "two turns": [("user", "Hi"), ("assistant", "Yes?"), ("user", "Sort: 3, 1"), ("assistant", "1, 3")],
    "ends with the user": [("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye")],
    "equal texts": [("user", "same"), ("assistant", "same"), ("user", "same"), ("assistant", "same")],
    "unicode": [("user", "naïve 日本語 🙂?"), ("assistant", "日本語 🙂 é")],
    "spaces and lines": [("user", "a  b\n\nc "), ("assistant", "x  y\n\n  z")],
    "with a system turn": [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo")],
}


def learned(tokenizer: Any, template: str, said: Turns) -> list[str]:
    """The texts of the learned runs of tokens, as the encoder's mask has them."""
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, template), 4096, "drop")
    [(ids, mask, _)] = encoder.encode([chat(*said)])
    cuts = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    runs = cuts.reshape(-1, 2)
    return [tokenizer.decode(ids[a:b], clean_up_tokenization_spaces=False) for a, b in runs]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("style", "conversation"),
    [(s, c) for s in STYLES for c, said in CONVERSATIONS.items() if STYLES[s][2] or said[0][0] != "system"],
)
def test_chat_format__targets_include_the_end_of_turn(kind: str, style: str, conversation: str) -> None:
    template, form, _ = STYLES[style]
    said = CONVERSATIONS[conversation]
    expected = [form.format(content) for role, content in said if role == "assistant"]
    got = learned(TOKENIZERS[kind], template, said)
    if kind == "metaspace" or style in (
        "mistral",
        "no end of turn",
    ):  # a space before the answer belongs to its first token
        got = [text.removeprefix(" ") for text in got]
    assert got == expected


text = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n ab"), min_size=1, max_size=20
)
words = text.map(str.strip).filter(lambda t: t and not any(s[:4] in t for s in styles.SPECIAL))


@settings(deadline=None, max_examples=80)
@given(
    style=st.sampled_from(
        ["chatml", "llama-3", "zephyr", "granite", "marks without the end", "built-in chatml"]
    ),
    answers=st.lists(st.tuples(words, words), min_size=1, max_size=4),
)
def test_chat_format__mask(style: str, answers: list[tuple[str, str]]) -> None:
    """Whatever is said, the learned text is the answers with their ends, nothing more and nothing less."""
    template, form, _ = STYLES[style]
    said = [turn for q, a in answers for turn in (("user", q), ("assistant", a))]
    got = learned(TOKENIZERS["byte-level"], template, said)
    for piece, (_, answer) in zip(got, answers, strict=True):
        # a token may straddle the border: then only white space of the template comes with it
        before, found, after = piece.rpartition(form.format(answer))
        assert (before.strip(), bool(found), after) == ("", True, "")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_chat_format__marks_equal_prefix_differences(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    for said in CONVERSATIONS.values():
        assert learned(tokenizer, styles.CHATML, said) == learned(tokenizer, BUILT_IN["chatml"], said)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (styles.CHATML, "<|im_end|>"),
        (styles.LLAMA3, "<|eot_id|>"),
        (styles.MISTRAL, "</s>"),
        (styles.LLAMA2, "</s>"),
        (styles.PHI3, "<|end|>"),
        (styles.LAST_EOS, "</s>"),
        (styles.CHATGLM4, None),
        (styles.MARKED_SHORT, "<|im_end|>"),
        (styles.NO_END, None),
    ],
)
def test_chat_format__end_of_turn(template: str, end: str | None) -> None:
    assert ChatFormat(TOKENIZERS["byte-level"], template).end_of_turn == end


@pytest.mark.parametrize(
    ("template", "expected"), [(styles.LLAMA3, True), (styles.ZEPHYR, False), (BUILT_IN["plain"], False)]
)
def test_chat_format__writes_bos(template: str, expected: bool) -> None:
    assert ChatFormat(TOKENIZERS["byte-level"], template).writes_bos is expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}", "refuses"),
        ("{{- raise_exception('no') }}", "no"),
        (
            "{%- for m in messages %}{%- generation %}{{- m['content'] }}{%- endgeneration %}{%- endfor %}",
            "nothing else",
        ),
        ("nothing", "assistant"),
    ],
)
def test_chat_format__refuses_useless_templates(template: str, says: str) -> None:
    with raises(DataError, "model.chat_template") as caught:
        ChatFormat(TOKENIZERS["byte-level"], template)
    assert says in str(caught.value)
    assert "chatml" in caught.value.problems[0].remedy


def encoded(template: str, row: Row, kind: str = "byte-level") -> tuple[Encoder, list[str]]:
    """An encoder that has encoded one row, and the texts that are learned of it."""
    tokenizer = TOKENIZERS[kind]
    form = ChatFormat(tokenizer, template)
    encoder = Encoder(tokenizer, form, 4096, "drop")
    kept = list(encoder.encode([row]))
    assert not isinstance(row.content, str)
    rendered = form.render(row.content, row.tools) if kept else None
    return encoder, [rendered.text[a:b] for a, b in rendered.spans] if rendered else []


TALK = [
    ("user", "Is it 4? Yes & no"),
    ("assistant", "It is 4 & <more>."),
    ("user", "So?"),
    ("assistant", "é ñ"),
]


@pytest.mark.parametrize(
    ("template", "expected", "note"),
    [
        (styles.UPPER, ["IT IS 4 & <MORE>.<|im_end|>", "É Ñ<|im_end|>"], "not_as_written"),
        (styles.ESCAPES, ["It is 4 &amp; &lt;more&gt;.<|im_end|>", "é ñ<|im_end|>"], "not_as_written"),
        (styles.JSON, ['"It is 4 & <more>."<|im_end|>', '"é ñ"<|im_end|>'], None),
        (styles.INDENTS, ["  It is 4 & <more>.<|im_end|>", "  é ñ<|im_end|>"], None),
        (styles.CUTS, ["It<|im_end|>", "é ñ<|im_end|>"], "answer_cut"),
        (styles.CLOSED, ["It is 4 & <more>. (over)<|im_end|>", "é ñ (over)<|im_end|>"], None),
        (styles.NUMBERED, ["It is 4 & <more>.<|im_end|>", "é ñ<|im_end|>"], None),
        (styles.LAST_EOS, ["It is 4 & <more>.\n", "é ñ\n</s>"], None),
        (styles.NO_END, ["It is 4 & <more>.\n", "é ñ\n"], None),
        (styles.THINKS, ["It is 4 & <more>.<|im_end|>", "é ñ<|im_end|>"], None),
    ],
)
def test_chat_format__templates_that_change_texts(
    template: str, expected: list[str], note: str | None
) -> None:
    encoder, learned_text = encoded(template, chat(*TALK))
    assert learned_text == expected
    assert {k: v for k, v in encoder.counts.items() if v} == {"kept": 1, **({note: 1} if note else {})}


@pytest.mark.parametrize(
    ("template", "row", "outcome", "says"),
    [
        (styles.GEMMA2, chat(("system", "s"), *TALK), "refused", "System role not supported"),
        (styles.TWICE, chat(*TALK), "refused", "more than once"),
        (styles.VICUNA, chat(("system", "Be brief."), *TALK), "not_rendered", "turn 1, whose role is system"),
        (styles.VICUNA, chat(*TALK, ("tool", "4"), TALK[1]), "not_rendered", "turn 5, whose role is tool"),
        (styles.MARKED_DROPS_SYSTEM, chat(("system", "Be!"), *TALK), "not_rendered", "role is system"),
        (styles.MARKED_SHORT, chat(*TALK, tools=({"name": "add"},)), "not_rendered", "the tools"),
        (styles.PHI3, chat(*TALK, ("developer", "x"), TALK[1]), "not_rendered", "role is developer"),
        (styles.R1, chat(TALK[0], ("assistant", "<think>hm</think>")), "not_rendered", "is assistant"),
        (styles.ONLY_LAST, chat(*TALK), "not_rendered", "turn 1, whose role is user"),
        (styles.LAST_ANSWER, chat(*TALK), "not_rendered", "turn 2, whose role is assistant"),
        (
            styles.ENDS_BEFORE_USER,
            chat(*TALK, ("tool", "4"), TALK[1]),
            "refused",
            "writes no <|im_end|> behind",
        ),
    ],
)
def test_encoder__names_why_a_row_is_left_out(template: str, row: Row, outcome: str, says: str) -> None:
    encoder, _ = encoded(template, row)
    assert encoder.counts[outcome] == 1
    assert says in encoder.example.get(outcome, "")


def test_chat_format__follows_texts_that_the_template_looks_into() -> None:
    """Only where it looks into answers, in a way that masks hide, are they not found."""
    asked = chat(("user", "Give json"), ("assistant", "{}"), ("user", "text"), ("assistant", "no json"))
    assert encoded(styles.SHOUTS_JSON, asked)[1] == ["{}<|im_end|>", "no json as JSON<|im_end|>"]
    equal = chat(("user", "same"), ("assistant", "a"), ("user", "same"), ("assistant", "b"), tools=TOOLS)
    encoder, learned_text = encoded(styles.MISTRAL, equal)
    assert learned_text == [" a</s>", " b</s>"]
    assert encoder.counts == {"kept": 1}
    depends = styles.CHATML.replace(
        "m['content'] +", "m['content'] + (' even' if m['content'] | int % 2 == 0 else '') +"
    )
    encoder, _ = encoded(depends, chat(("user", "1"), ("assistant", "3")))
    assert "depends on what the turns say" in encoder.example["refused"]


def test_chat_format__joined_answers() -> None:
    row = chat(
        ("user", "q"), ("assistant", "one"), ("assistant", "two"), ("user", "q"), ("assistant", "three")
    )
    assert encoded(styles.MERGES, row)[1] == ["one\n", "two<|im_end|>", "three<|im_end|>"]


@pytest.mark.parametrize("template", [styles.CHATML, styles.MARKED_SHORT, BUILT_IN["plain"]])
def test_chat_format__turns_not_to_be_learned(template: str) -> None:
    row = chat(TALK[0], Turn("assistant", "WRONG", learn=False), *TALK[2:])
    assert [text.partition("<")[0] for text in encoded(template, row)[1]] == ["é ñ"]


def test_encoder__reports_reasoning_that_the_template_leaves_out() -> None:
    whole, cut = "{{- m['content'] }}{%- endgen", "{{- m['content'].split('</think>')[-1] }}{%- endgen"
    for template in (styles.MARKED_SHORT.replace(whole, cut), styles.R1):
        encoder, [answer] = encoded(template, chat(("user", "q"), ("assistant", "hm</think>yes")))
        assert answer.startswith("yes")
        assert encoder.counts == {"kept": 1, "answer_cut": 1}
        assert "turn 2" in encoder.example["answer_cut"]
    beside = Turn("assistant", "yes", extra={"reasoning_content": "hm hm"})
    encoder, _ = encoded(styles.CHATML, chat(("user", "q"), beside))
    assert "reasoning_content" in encoder.example["not_rendered"], "it never reads any"


@pytest.mark.parametrize(
    ("text", "counts"),
    [("Say <s>no</s>!", {"kept": 1, "special_in_text": 1}), ("Say <b>no</b>!", {"kept": 1})],
)
def test_encoder__reports_special_tokens_in_text(text: str, counts: dict[str, int]) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, styles.CHATML), 99, "drop")
    list(encoder.encode([chat(("user", text), ("assistant", "no"), where="f:1")]))
    assert encoder.counts == counts
    assert encoder.example.get("special_in_text", "f:1: <s>") == "f:1: <s>"


@pytest.fixture
def bare() -> Any:
    """A base model's tokenizer: eos and nothing else."""
    return PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer, eos_token="</s>")


def test_choose_template__missing(bare: Any) -> None:
    with raises(DataError, "model.chat_template"):
        choose_template(bare, None, "org/base")


def test_choose_template__unknown(bare: Any) -> None:
    with raises(DataError, "model.chat_template"):
        choose_template(bare, "alpaca", "org/base")


def test_choose_template__from_a_file(bare: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(styles.ZEPHYR)
    assert choose_template(bare, str(file), "org/base") == (styles.ZEPHYR, None)
    assert bare.chat_template == styles.ZEPHYR
    with raises(DataError, "model.chat_template"):
        choose_template(bare, str(tmp_path / "other.jinja"), "org/base")


def test_choose_template__own_is_the_default(bare: Any) -> None:
    bare.chat_template = styles.ZEPHYR
    assert choose_template(bare, None, "org/base") == (styles.ZEPHYR, None)


def test_choose_template__chatml_adds_missing_tokens() -> None:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(special_tokens=["</s>"], show_progress=False)
    core.train_from_iterator(["some text"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    before = len(tokenizer)
    choose_template(tokenizer, "chatml", "org/base")
    assert len(tokenizer) == before + 2
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in (before, before + 1)
    choose_template(tokenizer, "chatml", "org/base")
    assert len(tokenizer) == before + 2


def test_choose_template__plain_needs_an_eos_token() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    with raises(DataError, "model.chat_template"):
        choose_template(tokenizer, "plain", "org/base")


def test_choose_template__starts_with_bos_like_the_tokenizer(bare: Any) -> None:
    core = byte_level().backend_tokenizer
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    template, _ = choose_template(tokenizer, "plain", "org/base")
    text = ChatFormat(tokenizer, template).render(turns(("user", "q"), ("assistant", "a"))).text
    assert text == "<s>### Instruction:\nq\n\n### Response:\na</s>\n\n"
    assert (
        not ChatFormat(bare, choose_template(bare, "plain", "m")[0])
        .render(turns(("user", "q")))
        .text.startswith("<s>")
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_encoder__text_is_trained_on_with_its_end(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    encoder = Encoder(tokenizer, None, 99, "drop")
    [(ids, mask, domain)] = encoder.encode([Row("some plain text", "prose", "f:1")])
    assert mask.tolist() == [False] + [True] * (len(ids) - 1)
    assert ids[-1] == tokenizer.eos_token_id
    assert (tokenizer.decode(ids[:-1]), domain) == ("some plain text", "prose")


def around(before: str | None, behind: str | None) -> Any:
    """A tokenizer that puts tokens around each text."""
    core = byte_level().backend_tokenizer
    parts = [token for token in (before, "$A", behind) if token]
    special = [(token, core.token_to_id(token)) for token in parts if token != "$A"]
    core.post_processor = processors.TemplateProcessing(single=" ".join(parts), special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(("before", "behind"), [(None, None), ("<s>", None), ("<s>", "</s>"), (None, "</s>")])
@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("some text", "</s>"),
        ("<s>some text", "</s>"),
        ("some text</s>", ""),
        ("<s>some text</s>", ""),
        ("<s>some text</s>\n", ""),
        ("some text<|im_end|>", "</s>"),
    ],
)
def test_encoder__text_has_each_special_token_once(
    before: str | None, behind: str | None, text: str, ends: str
) -> None:
    tokenizer = around(before, behind)
    encoder = Encoder(tokenizer, None, 99, "drop")
    [(ids, mask, _)] = encoder.encode([Row(text, None, "f:1")])
    start = before if before and not text.startswith("<s>") else ""
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == start + text + ends
    assert mask.tolist() == [False] + [True] * (len(ids) - 1)
    assert encoder.counts["special_in_text"] == text.count("<|im_end|>")


@pytest.mark.parametrize("text", ["<s><s>twice", "in </s> between", "Say <|im_start|>"])
def test_encoder__reports_special_tokens_in_plain_text(text: str) -> None:
    encoder = Encoder(around("<s>", None), None, 99, "drop")
    list(encoder.encode([Row(text, None, "f:1")]))
    assert encoder.counts == {"kept": 1, "special_in_text": 1}


@pytest.mark.parametrize(
    ("over_length", "kept", "counts"),
    [
        ("drop", 1, {"kept": 1, "over_length": 2, "no_target": 2}),
        ("truncate", 2, {"kept": 2, "truncated": 1, "no_target": 3}),
    ],
)
def test_encoder__counts_unused_rows_by_reason(over_length: str, kept: int, counts: dict[str, int]) -> None:
    rows = [
        chat(("user", "short"), ("assistant", "yes"), where="f:1"),
        chat(("user", "short"), ("assistant", "y" * 999), where="f:2"),
        chat(("user", "l" * 999), ("assistant", "cut away"), where="f:3"),
        chat(("user", "no answer"), where="f:4"),
        chat(("user", "blank answer"), ("assistant", " "), where="f:5"),
    ]
    tokenizer = TOKENIZERS["byte-level"]
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, styles.CHATML), 64, over_length)
    out = list(encoder.encode(rows))
    assert len(out) == kept
    assert all(len(ids) <= 64 and mask.any() and not mask[0] for ids, mask, _ in out)
    assert encoder.counts == counts
    assert encoder.example["no_target"].startswith("f:4")


def test_built_in_chatml__tools_calls_and_reasoning() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    asks = Turn("assistant", "Let me see.", extra={"tool_calls": [call, call]})
    thinks = Turn("assistant", "4", extra={"reasoning_content": "easy"})
    row = chat(("system", "Be brief."), ("user", "2?"), asks, ("tool", "RESULT"), thinks, tools=TOOLS)
    form = ChatFormat(TOKENIZERS["byte-level"], BUILT_IN["chatml"])
    assert not isinstance(row.content, str)
    rendered = form.render(row.content, row.tools)
    written = '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>'
    assert [rendered.text[a:b] for a, b in rendered.spans] == [
        f"Let me see.\n{written}\n{written}<|im_end|>",
        "<think>\neasy\n</think>\n\n4<|im_end|>",
    ]
    assert rendered.text.count('"function": {"name": "add"}') == 1
    assert rendered.text.count("<|im_start|>system") == 1


def test_template_without_tools__names_one_that_has_them() -> None:
    encoder = Encoder(
        TOKENIZERS["byte-level"], ChatFormat(TOKENIZERS["byte-level"], BUILT_IN["plain"]), 99, "drop"
    )
    assert not list(encoder.encode([chat(("user", "2?"), ("assistant", "4"), tools=TOOLS)]))
    assert "chat_template: chatml" in encoder.example["not_rendered"]
