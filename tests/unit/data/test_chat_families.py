"""What is learned of conversations of every shape, in the format of each model family.

The learned text is compared with one written by hand (`support.chat_templates`), the tokens with those of
`apply_chat_template`.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from support.chat_templates import ADDED, CHATGLM4, FAMILIES, GLM4_5, HARMONY, SPECIAL
from support.rows import chat
from sweepft.data.encode import Encoder
from sweepft.data.rows import REASONING, Row, Turn
from sweepft.data.templates import ChatFormat
from sweepft.data.trace import Trace, Tracer, _Masks

ADD = {"name": "add", "arguments": {"a": 2, "b": "twice"}}
CALL = Turn("assistant", "", extra={"tool_calls": [{"id": "call00001", "type": "function", "function": ADD}]})
RESULT = Turn("tool", '{"sum": "4"}', extra={"name": "add", "tool_call_id": "call00001"})
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},)
CALLS = {
    "qwen2.5": '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": "twice"}}\n</tool_call><|im_end|>',
    "qwen2.5-base": '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": "twice"}}\n</tool_call><|im_end|>',
    "qwen3": '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": "twice"}}\n</tool_call><|im_end|>',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": "twice"}, "id": "call00001"}]</s>',
    "llama-3.1": '{"name": "add", "parameters": {"a": 2, "b": "twice"}}<|eom_id|>',
    "r1-distill": '<|tool_calls_begin|><|tool_call_begin|>add\n{"a": 2, "b": "twice"}<|tool_call_end|><|tool_calls_end|>'
    "<|end_of_sentence|>",
}
"""What is learned of `CALL`, by family."""

Q, A = ("user", "What is 2 plus 2?"), ("assistant", "It is 4.")
SHAPES: dict[str, Row] = {
    "single": chat(Q, A),
    "multi": chat(Q, A, ("user", "And 3?"), ("assistant", "That is 6.")),
    "three": chat(Q, A, ("user", "And 3?"), ("assistant", "6"), ("user", "4?"), ("assistant", "8")),
    "ends with the user": chat(Q, A, ("user", "Thanks")),
    "system": chat(("system", "Be brief."), Q, A),
    "system, multi": chat(("system", "Be brief."), Q, A, ("user", "And 3?"), ("assistant", "6")),
    "later system": chat(Q, A, ("system", "Be brief now."), ("user", "And 3?"), ("assistant", "6")),
    "tool": chat(Q, CALL, RESULT, A, tools=TOOLS),
    "tool, twice": chat(Q, CALL, RESULT, CALL, RESULT, A, tools=TOOLS),
    "tool call alone": chat(Q, CALL, tools=TOOLS),
    "echo": chat(("user", "same"), ("assistant", "same"), ("user", "same"), ("assistant", "same")),
    "short": chat(("user", "a"), ("assistant", "a"), ("user", "s"), ("assistant", "s")),
    "blank": chat(Q, ("assistant", ""), ("user", "Well?"), A),
    "blank last": chat(Q, A, ("user", "Well?"), ("assistant", "")),
    "spaces": chat(Q, ("assistant", "  \n"), ("user", "Well? "), A),
    "unicode": chat(("user", "naïve 日本語 🙂?"), ("assistant", "日本語 🙂 é ß \u2028 \ue000")),
    "indented": chat(("user", "  a  b\n\nc "), ("assistant", "  x  y\n\n    z\n")),
    "punctuation": chat(("user", "?"), ("assistant", "-"), ("user", '"'), ("assistant", "<>")),
    "says a header": chat(Q, ("assistant", "assistant\nUSER: x ASSISTANT: y [/INST] z"), ("user", "ok"), A),
    "begins with a header": chat(("user", "user\n"), ("assistant", "ASSISTANT: yes"), ("user", "<|user"), A),
    "thinks": chat(Q, ("assistant", "<think>\ntwo twos\n</think>\n\nIt is 4.")),
    "thinks, multi": chat(
        Q,
        ("assistant", "<think>\ntwo twos\n</think>\n\nIt is 4."),
        ("user", "And 3?"),
        ("assistant", "<think>\ntwo threes\n</think>\n\nIt is 6."),
    ),
    "reasoning": chat(Q, Turn("assistant", "It is 4.", extra={"reasoning_content": "two twos"})),
    "reasoning, multi": chat(
        Q,
        Turn("assistant", "It is 4.", extra={"reasoning_content": "two twos"}),
        ("user", "And 3?"),
        Turn("assistant", "It is 6.", extra={"reasoning_content": "two threes"}),
    ),
    "first not learned": chat(Q, Turn("assistant", "WRONG", learn=False), ("user", "No."), A),
    "last not learned": chat(Q, A, ("user", "Sure?"), Turn("assistant", "WRONG", learn=False)),
    "few shots": chat(
        ("user", "1 plus 1"),
        Turn("assistant", "2", learn=False),
        ("user", "2 plus 1"),
        Turn("assistant", "3", learn=False),
        Q,
        A,
    ),
}


@functools.cache
def tokenizer(eos: str, bos: str | None, template: str) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, bos_token=bos, pad_token=eos)
    made.add_tokens(list(SPECIAL), special_tokens=True)
    made.add_tokens(list(ADDED))
    made.chat_template = template
    return made


@functools.cache
def chat_format(family: str) -> tuple[Any, ChatFormat]:
    kind = FAMILIES[family]
    made = tokenizer(kind.eos, kind.bos, kind.template)
    return made, ChatFormat(made, kind.template)


def expected(family: str, row: Row) -> list[str]:
    turns = row.content
    assert not isinstance(turns, str)
    last_user = max(i for i, turn in enumerate(turns) if turn.role == "user")
    answers = []
    for i, turn in enumerate(turns):
        if turn.role == "assistant" and turn.learned:
            final = i > last_user and (i == len(turns) - 1 or bool(turn.extra.get("reasoning_content")))
            written = FAMILIES[family].answer(turn, final)
            if turn is CALL:
                written = "<think>\n\n</think>\n\n" * (family == "qwen3" and final) + CALLS[family]
            answers.append(written)
    return answers


def outcome(family: str, shape: str) -> str:
    kind = FAMILIES[family]
    if "tool" in shape:
        alternates = shape == "tool call alone" and kind.tool == "refused"
        return "not_rendered" if alternates else kind.tool
    if "reasoning" in shape:
        return "kept" if any(key in kind.template for key in REASONING) else "not_rendered"
    if "system" in shape:
        return kind.later_system if "later" in shape else kind.system
    return "kept"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_families__learned_text(family: str, shape: str) -> None:
    made, form = chat_format(family)
    row = SHAPES[shape]
    encoder = Encoder(made, form, 4096, "drop")
    encoded = list(encoder.encode([row]))
    assert [name for name in ("kept", "refused", "not_rendered", "no_target") if encoder.counts[name]] == [
        outcome(family, shape)
    ], encoder.example
    if not encoded:
        return
    [(ids, mask, _)] = encoded
    assert not isinstance(row.content, str)
    rendered = form.render(row.content, row.tools)
    assert [rendered.text[a:b] for a, b in rendered.spans] == expected(family, row)
    messages = [turn.message() for turn in row.content]
    assert ids.tolist() == made.apply_chat_template(messages, tools=list(row.tools) or None)["input_ids"]
    learned = made.decode(ids[mask], clean_up_tokenization_spaces=False)
    assert learned == "".join(expected(family, row))


TEN: dict[str, tuple[str, ...]] = {
    "qwen2.5": ("tool", "tool, twice", "tool call alone"),
    "qwen3": ("reasoning", "thinks", "tool call alone"),
    "llama-3.1": ("tool", "tool, twice", "tool call alone"),
    "gemma-2": (),
    "mistral": ("tool", "tool, twice"),
    "phi-4-mini": (),
    "granite": (),
    "olmo-2": (),
    "smollm3": (),
    "r1-distill": ("tool call alone",),
}
"""Families, and shapes of rows that only some of them take."""


@pytest.mark.parametrize("family", TEN)
def test_families__learned_text_is_what_follows_the_generation_prompt(family: str) -> None:
    """Computed by `apply_chat_template` alone: a conversation up to an answer, less the same up to its prompt."""
    made, form = chat_format(family)
    shapes = [
        "single",
        "multi",
        "three",
        "system",
        "unicode",
        "punctuation",
        "ends with the user",
        *TEN[family],
    ]
    compared = 0
    for shape in shapes:
        row = SHAPES[shape]
        if outcome(family, shape) != "kept":
            continue
        assert not isinstance(row.content, str)
        messages = [turn.message() for turn in row.content]
        rendered = form.render(row.content, row.tools)
        spans = iter(rendered.spans)

        def text(n: int, prompt: bool, messages: Any = messages, row: Row = row) -> str:
            return str(made.apply_chat_template(
                messages[:n], tools=list(row.tools) or None, add_generation_prompt=prompt, tokenize=False
            ))  # fmt: skip

        for i, turn in enumerate(row.content):
            if turn.role != "assistant":
                continue
            start, stop = next(spans)
            prompt, whole = text(i, True), text(i + 1, False)
            header = prompt if whole.startswith(prompt) else prompt.removesuffix("<think>\n")
            body = whole.rstrip().removesuffix(made.eos_token).rstrip()
            if not whole.startswith(header) or not rendered.text.startswith(body):
                continue  # the template writes this part otherwise once more follows
            answer = whole[len(header) :]
            learned = rendered.text[start:stop]
            assert answer.lstrip().startswith(learned.lstrip())
            assert answer[answer.index(learned.strip()) + len(learned.strip()) :].strip() in (
                "",
                made.eos_token,
            )
            assert rendered.text[len(header) : start].strip() == ""
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("family", ["qwen2.5", "llama-3.1", "mistral", "smollm3", "granite"])
def test_families__turns_of_other_roles_can_be_learned(family: str) -> None:
    _, form = chat_format(family)
    learned = Turn("user", "What is 2 plus 2?", learn=True)
    row = chat(learned, A, ("user", "And 3?"), Turn("assistant", "6", learn=False), learned, A)
    assert not isinstance(row.content, str)
    rendered = form.render(row.content)
    parts = [rendered.text[a:b] for a, b in rendered.spans]
    answer = FAMILIES[family].answer(Turn(*A), False)
    assert [part.startswith(learned.content) for part in parts] == [True, False, True, False]
    assert [parts[1], parts[3]] == [answer, answer]
    assert "And 3?" not in "".join(parts)


@pytest.mark.parametrize("answer", ["Yes.", "\nYes.", "  Yes. "])
def test_special_tokens__that_swallow_white_space_are_no_part_of_an_answer(answer: str) -> None:
    """As Phi-3's ``<|assistant|>``, whose offsets include the white space behind it."""
    template = FAMILIES["phi-3"].template
    made = copy.deepcopy(tokenizer("<|endoftext|>", None, template))
    names = ("<|user|>", "<|assistant|>", "<|end|>")
    made.add_tokens([AddedToken(name, rstrip=True, special=True) for name in names], special_tokens=True)
    encoder = Encoder(made, ChatFormat(made, template), 4096, "drop")
    row = chat(Q, ("assistant", answer), ("user", "Sure?"), ("assistant", answer))
    [(ids, mask, _)] = encoder.encode([row])
    assert made.decode(ids[mask]).replace(" ", "") == "Yes.<|end|>" * 2


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    "arguments", [{}, {"a": 2}, {"a": "x"}, {"a": "x", "b": [1, {"c": True}]}, {"a": None}]
)
@pytest.mark.parametrize("template", [HARMONY, GLM4_5])
def test_tool_calls__are_learned_whole_whatever_their_arguments_are(
    template: str, arguments: dict[str, Any], last: bool
) -> None:
    """Numbers, brackets and closing tags behind the last text of a call, where no end of turn follows it."""
    made = copy.deepcopy(tokenizer("<|return|>", None, template))
    made.add_tokens(
        [
            *(
                f"<|{x}|>"
                for x in ["start", "end", "message", "channel", "call", "user", "assistant", "observation"]
            )
        ],
        special_tokens=True,
    )
    call = Turn(
        "assistant", "", extra={"tool_calls": [{"function": {"name": "add", "arguments": arguments}}]}
    )
    row = chat(Q, call) if last else chat(Q, call, ("tool", "4"), A)
    assert not isinstance(row.content, str)
    rendered = ChatFormat(made, template).render(row.content)
    (start, stop), *_ = rendered.spans
    if template == HARMONY:
        written = f" to=functions.add<|channel|>commentary json<|message|>{json.dumps(arguments)}<|call|>"
    else:
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.items()}
        args = (f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in values.items())
        written = f"\n<tool_call>add\n{''.join(args)}</tool_call>"
    assert rendered.text[start:stop] == written


MARKED_GLM = CHATGLM4.replace(
    "{%- else %}{{- '<|' + m",
    "{%- elif m['role'] == 'assistant' %}{{- '<|assistant|>' }}"
    "{%- generation %}{{- '\n' + m['content'] }}{%- endgeneration %}"
    "{%- else %}{{- '<|' + m",
)


@pytest.mark.parametrize(
    ("shape", "ends"),
    [
        ("single", ["<|user|>"]),
        ("multi", ["<|user|>", "<|user|>"]),
        ("ends with the user", ["<|user|>"]),
        ("later system", ["", "<|user|>"]),
        ("last not learned", ["<|user|>"]),
        ("first not learned", ["<|user|>"]),
        ("tool", ["<|observation|>", "<|user|>"]),
        ("tool call alone", ["<|observation|>"]),
        ("indented", ["<|user|>"]),
    ],
)
@pytest.mark.parametrize("template", [CHATGLM4, GLM4_5, MARKED_GLM])
def test_next_turns_token__ends_an_answer_if_it_ends_those_of_the_base_model(
    template: str, shape: str, ends: list[str]
) -> None:
    """As in GLM-4, whose template writes nothing behind an answer."""
    made, row = tokenizer("<|endoftext|>", None, template), replace(SHAPES[shape], tools=())
    if "tool" in shape and template is not GLM4_5:
        return  # they write no tool calls
    form = ChatFormat(made, template, ends=("<|endoftext|>", "<|user|>", "<|observation|>"))
    assert (form.end_of_turn, form.appended) == ("<|user|>", True)
    encoder = Encoder(made, form, 4096, "drop")
    [(ids, mask, _)] = encoder.encode([row])
    assert not isinstance(row.content, str)
    learned = [turn for turn in row.content if turn.role == "assistant" and turn.learned]
    called = "\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n<arg_key>b</arg_key>\n<arg_value>twice"
    written = [
        "\n" + turn.content if turn.content else f"{called}</arg_value>\n</tool_call>" for turn in learned
    ]
    assert made.decode(ids[mask]) == "".join(map("".join, zip(written, ends, strict=True)))
    messages = [turn.message() for turn in row.content]
    plain = made.apply_chat_template(messages, tokenize=True)["input_ids"]
    appended = made.convert_tokens_to_ids([ends[-1]] if row.content[-1] is learned[-1] else [])
    assert ids.tolist() == plain + appended


def test_next_turns_token__ends_nothing_if_the_base_model_does_not_say_so() -> None:
    made = tokenizer("<|endoftext|>", None, CHATGLM4)
    form = ChatFormat(made, CHATGLM4, ends=("<|endoftext|>",))
    assert (form.end_of_turn, form.appended) == (None, False)


@pytest.mark.parametrize("family", FAMILIES)
def test_tracer__whole_texts_are_found_where_their_characters_are(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short way for texts that are written unchanged gives what following each character gives."""
    made, _ = chat_format(family)
    tracer = Tracer(FAMILIES[family].template, made.special_tokens_map, marked=False)
    rows = [row for shape, row in SHAPES.items() if outcome(family, shape) != "refused"]

    def traces() -> list[Trace]:
        return [tracer.trace(row.content, row.tools) for row in rows if not isinstance(row.content, str)]

    short = traces()
    monkeypatch.setattr(_Masks, "follow_whole", lambda *_: None)
    assert short == traces()


words = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from("\n <>\"'|{}"), min_size=1, max_size=12
)
plain = words.filter(lambda t: t.strip() and not any(s in t for s in (*SPECIAL, *ADDED)))


@settings(deadline=None, max_examples=150)
@given(
    family=st.sampled_from(sorted(set(FAMILIES))),
    pairs=st.lists(st.tuples(plain, plain, st.booleans()), min_size=1, max_size=4),
)
def test_families__any_conversation(family: str, pairs: list[tuple[str, str, bool]]) -> None:
    """The learned text is the answers to learn with their ends, and the tokens are those of inference."""
    made, form = chat_format(family)
    row = chat(*(t for q, a, learn in pairs for t in (("user", q), Turn("assistant", a, learn))))
    assert not isinstance(row.content, str)
    rendered = form.render(row.content)
    assert [rendered.text[a:b] for a, b in rendered.spans] == expected(family, row)
    encoded = list(Encoder(made, form, 10**6, "drop").encode([row]))
    assert len(encoded) == any(learn for _, _, learn in pairs)
    for ids, mask, _ in encoded:
        messages = [turn.message() for turn in row.content]
        assert ids.tolist() == made.apply_chat_template(messages)["input_ids"]
        assert np.array_equal(mask.nonzero()[0] > 0, np.ones(mask.sum(), bool))


CONCATENATES = """\
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|user|>' + m.content }}
{%- elif m.role == 'tool' %}{{- '<|observation|>' + m.content + '<|end|>' }}
{%- elif m.tool_calls %}
{%- if messages[loop.index0 - 1].role == 'user' %}{{- '<|assistant|>' }}{%- endif %}
{%- for call in m.tool_calls %}
{{- '<|tool_call_begin|>' + call.function.name + '\\n' + CALL_ARGUMENTS + '<|tool_call_end|>' }}
{%- endfor %}
{{- '<|end|>' }}
{%- else %}
{%- if messages[loop.index0 - 1].role == 'user' %}{{- '<|assistant|>' }}{%- endif %}
{{- m.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role == 'user' %}{{- '<|assistant|>' }}{%- endif %}
"""
"""Begins no turn behind a result, and puts arguments into its text as they are; neither does it write tools."""


@pytest.mark.parametrize(
    "arguments",
    ["call.function.arguments", "'' ~ call.function.arguments", "call.function.arguments | tojson"],
)
def test_tool_calls__behind_a_result_and_with_arguments_as_text(arguments: str) -> None:
    template = CONCATENATES.replace("CALL_ARGUMENTS", f"({arguments})")
    made = tokenizer("<|end|>", "<s>", template)
    form = ChatFormat(made, template)
    row = replace(SHAPES["tool, twice"], tools=())
    rendered = form.render(row.content, row.tools)  # type: ignore[arg-type]
    call = '<|tool_call_begin|>add\n{"a": 2, "b": "twice"}<|tool_call_end|><|end|>'
    assert [rendered.text[a:b] for a, b in rendered.spans] == [call, call, "It is 4.<|end|>"]
    assert '"twice"}' in rendered.text


def test_tool_calls__function_that_the_result_names_again() -> None:
    named = CONCATENATES.replace("CALL_ARGUMENTS", "(call.function.arguments | tojson)").replace(
        "'<|observation|>' + m.content",
        "'<|observation|>' + messages[loop.index0 - 1].tool_calls[0].function.name + m.content",
    )
    made = tokenizer("<|end|>", "<s>", named)
    form = ChatFormat(made, named)
    row = replace(SHAPES["tool, twice"], tools=())
    rendered = form.render(row.content, row.tools)  # type: ignore[arg-type]
    call = '<|tool_call_begin|>add\n{"a": 2, "b": "twice"}<|tool_call_end|><|end|>'
    assert [rendered.text[a:b] for a, b in rendered.spans] == [call, call, "It is 4.<|end|>"]
    assert '<|observation|>add{"sum": "4"}<|end|>' in rendered.text
