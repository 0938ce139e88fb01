"""Chat templates: the text of a conversation, and which part of it is trained on.

Targets are found in *characters* first, from the template's ``{% generation %}`` marks or else by rendering the
conversation up to each assistant turn and taking the difference, and then mapped to tokens. An assistant turn is
trained on up to and including the token that ends it, so that the model learns to stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Final

from sweepft.data.rows import Turn
from sweepft.errors import DataError, Problem
from sweepft.spec.fields import is_template_file

BUILT_IN: Final[Mapping[str, str]] = {
    "chatml": """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "plain": """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '### Response:\\n' }}
{%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
{{- '\\n\\n' }}
{%- elif message['role'] == 'system' %}
{{- message['content'] + '\\n\\n' }}
{%- else %}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Response:\\n' }}
{%- endif %}
""",
}
"""Built-in templates by name, both with generation marks.

``chatml`` adds the tokens ``<|im_start|>`` and ``<|im_end|>`` where the tokenizer lacks them, with new embeddings to
train. ``plain`` needs only the tokenizer's eos token: the safer choice for LoRA and for short runs.
"""
_CHATML_TOKENS: Final = ("<|im_start|>", "<|im_end|>")
_MARKS: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE: Final = (Turn("user", "Question one"), Turn("assistant", "Answer one"), Turn("user", "Question two"))


def choose_template(tokenizer: Any, chat_template: str | None, model: str) -> str:
    """The template a sweep uses, set on the tokenizer too, with the tokens it needs added.

    Args:
        tokenizer: A transformers tokenizer; changed in place.
        chat_template: A built-in name, a Jinja file, or None for the tokenizer's own.
        model: The model's path, for error messages.
    Raises:
        DataError: If there is no such template, or the tokenizer has none.
    """
    key = "model.chat_template"
    names = " or ".join(BUILT_IN)
    if chat_template is None:
        own = tokenizer.chat_template
        if isinstance(own, Mapping):
            own = own.get("default")
        if not own:
            rule = "the tokenizer has no chat template, which rows with messages need"
            remedy = f"write model.chat_template: {names} (built in), or name a Jinja file"
            raise DataError([Problem(model, key, rule, remedy)])
        template = str(own)
    elif is_template_file(chat_template):
        try:
            template = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            remedy = f"name a Jinja file, or a built-in template: {names}"
            raise DataError([Problem(chat_template, key, f"cannot be read: {error}", remedy)]) from error
    elif chat_template in BUILT_IN:
        template = _built_in(tokenizer, chat_template, model)
    else:
        remedy = f"write {names}, or name a Jinja file (a path, or a name that ends in .jinja)"
        raise DataError(
            [Problem(model, key, "there is no built-in template of this name", remedy, chat_template)]
        )
    tokenizer.chat_template = template
    return template


def _built_in(tokenizer: Any, name: str, model: str) -> str:
    if name == "chatml":
        tokenizer.add_tokens(
            [t for t in _CHATML_TOKENS if t not in tokenizer.get_vocab()], special_tokens=True
        )
        tokenizer.eos_token = "<|im_end|>"
    elif tokenizer.eos_token is None:
        rule = "the template ends each answer with the tokenizer's eos token, and it has none"
        raise DataError(
            [Problem(model, "model.chat_template", rule, "use chatml, or name a Jinja file", name)]
        )
    starts_with_bos = tokenizer.bos_token and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{- bos_token }}" if starts_with_bos else "") + BUILT_IN[name]


Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: What is tokenised.
        spans: Target spans as ``[start, stop)`` in characters, ascending, not overlapping.
        as_written: Whether each assistant turn was found, as written, in its span.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    as_written: bool


class ChatFormat:
    """A chat template applied with one tokenizer.

    Attributes:
        template: The Jinja text.
        marked: Whether it has generation marks.
        end_of_turn: The special token that ends an assistant turn, or None where the template writes none.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        """Try the template on a small conversation.

        Raises:
            DataError: If it cannot be rendered, or does not separate turns.
        """
        self.template = template
        self.marked = _MARKS.search(template) is not None
        self._tokens = dict(tokenizer.special_tokens_map)
        self._special = sorted(
            {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
            | set(tokenizer.all_special_tokens),
            key=lambda token: -len(token),
        )
        self._any_special = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")
        self.end_of_turn: str | None = None
        try:
            self.end_of_turn = self._probe()
        except ValueError as error:
            remedy = "mend the template, or use a built-in one: " + " or ".join(BUILT_IN)
            raise DataError([Problem("chat template", "model.chat_template", str(error), remedy)]) from error

    def render(self, turns: Sequence[Turn], tools: Tools = ()) -> Rendered:
        """Render a conversation and find its target spans; those of turns with ``learn=False`` are left out.

        Raises:
            ValueError: If the template refuses the conversation, or rewrites earlier turns and has no marks.
        """
        text, spans = (self._marked_spans if self.marked else self._prefix_spans)(turns, tools)
        answers = [turn.content.strip() for turn in turns if turn.role == "assistant"]
        as_written = len(answers) == len(spans) and all(
            answer in text[start:stop] for answer, (start, stop) in zip(answers, spans, strict=True)
        )
        learn = [turn.learn for turn in turns if turn.role == "assistant"]
        if not all(learn):
            if len(learn) != len(spans):
                raise ValueError(
                    "the template does not mark each assistant turn, and not all are to be learned"
                )
            spans = list(compress(spans, learn))
        return Rendered(text, tuple(self._end(text, start, stop) for start, stop in spans), as_written)

    def special_in(self, turns: Sequence[Turn]) -> str | None:
        """A special token spelled in the text of a turn, which is tokenised as that token."""
        found = (self._any_special.search(turn.content) for turn in turns)
        return next((match.group() for match in found if match), None)

    def _probe(self) -> str | None:
        """The special token that ends an assistant turn, last in the conversation or not."""
        answer = _PROBE[1].content
        found = []
        for turns in (_PROBE[:2], _PROBE):
            try:
                text, spans = (self._marked_spans if self.marked else self._prefix_spans)(turns, ())
            except ValueError:
                if turns is _PROBE:
                    break  # it rewrites earlier turns: usable for single answers; other rows are refused one by one
                raise
            if (
                len(spans) != 1
                or answer not in text[slice(*spans[0])]
                or _PROBE[0].content in text[slice(*spans[0])]
            ):
                raise ValueError(
                    "the template must write an assistant turn, and marks must hold nothing else"
                )
            after = text[spans[0][0] :].partition(answer)[2]
            found.append(next((t for t in self._special if after.startswith(t)), None))
        return found[0] if found[0] == found[-1] else None

    def _end(self, text: str, start: int, stop: int) -> tuple[int, int]:
        """Extend a target span to just behind the token that ends the turn."""
        end = self.end_of_turn
        if end is None:
            return start, stop
        head = text[start:stop].rstrip()
        if head.endswith(end):
            return start, start + len(head)
        return start, stop + len(end) if text.startswith(end, stop) else stop

    def _marked_spans(self, turns: Sequence[Turn], tools: Tools) -> tuple[str, list[tuple[int, int]]]:
        text, spans = self._apply(turns, tools, marks=True)
        return text, [(start, stop) for start, stop in spans if stop > start]

    def _prefix_spans(self, turns: Sequence[Turn], tools: Tools) -> tuple[str, list[tuple[int, int]]]:
        whole, _ = self._apply(turns, tools)
        spans = []
        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            upto, _ = self._apply(turns[: i + 1], tools) if i + 1 < len(turns) else (whole, None)
            start = self._prompt_length(turns[:i], tools, turn.content, upto)
            if start is None or not whole.startswith(upto):
                raise ValueError(
                    "the template rewrites earlier turns, so the assistant's part cannot be found: put "
                    "{% generation %} and {% endgeneration %} around it in the template"
                )
            spans.append((start, len(upto)))
        return whole, spans

    def _prompt_length(self, before: Sequence[Turn], tools: Tools, content: str, upto: str) -> int | None:
        """Where an assistant turn starts in `upto`: behind the generation prompt, else at its content."""
        start = 0
        if before:
            prompt, _ = self._apply(before, tools, prompt=True)
            if upto.startswith(prompt):
                return len(prompt)
            bare, _ = self._apply(before, tools)
            if not upto.startswith(bare):
                return None
            start = len(bare)
        found = upto.find(content.strip(), start)
        return found if found >= 0 else None

    def _apply(
        self, turns: Sequence[Turn], tools: Tools, *, prompt: bool = False, marks: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[[turn.message() for turn in turns]],
                tools=list(tools) or None,
                chat_template=self.template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks,
                **self._tokens,
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        return texts[0], spans[0] if marks else []
