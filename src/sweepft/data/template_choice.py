"""Which chat template a sweep uses: the tokenizer's own, a built-in one, or a Jinja file, with the spec's variables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from sweepft.errors import DataError, Problem
from sweepft.files import open_to_read
from sweepft.spec.fields import is_template_file

BUILT_IN: Final[Mapping[str, str]] = {
    "chatml": """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- 'These functions can be called:\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- '\\nTo call one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- set thoughts = message['reasoning_content'] or message['reasoning'] or message['thinking'] %}
{%- generation %}
{%- if thoughts %}{{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' }}{%- endif %}
{{- message['content'] }}
{%- for call in message['tool_calls'] or [] %}
{{- '\\n' if message['content'] or not loop.first }}
{{- '<tool_call>' + call['function'] | tojson + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endif %}
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

``chatml`` writes tools, calls and reasoning. It adds the tokens ``<|im_start|>`` and ``<|im_end|>`` where the tokenizer
lacks them, with new embeddings to train. ``plain`` needs only the tokenizer's eos token: the safer choice for LoRA and
for short runs.
"""
_LONGEST: Final = 1 << 20
"""Characters of a template file."""

_CHATML_TOKENS: Final = ("<|im_start|>", "<|im_end|>")


def choose_template(
    tokenizer: Any, chat_template: str | None, model: str, variables: Mapping[str, Any] | None = None
) -> tuple[str, str | None]:
    """The template a sweep uses, set on the tokenizer too, with the tokens it needs added.

    A tokenizer may have several templates by name: transformers takes ``tool_use`` for conversations with tools, and
    ``default`` for others. The tokenizer keeps all of them.

    Args:
        tokenizer: A transformers tokenizer; changed in place.
        chat_template: A built-in name, a Jinja file, or None for the tokenizer's own.
        model: The model's path, for error messages.
        variables: Values of the template's variables; see `with_defaults`.
    Returns:
        The template, and the one for conversations with tools if that is another one.
    Raises:
        DataError: If there is no such template, the tokenizer has none, or it does not read a variable.
    """
    _choose(tokenizer, chat_template, model)
    own = tokenizer.chat_template
    named = dict(own) if isinstance(own, Mapping) else {"default": own}
    if variables:
        for name in variables:
            if not any(reads(template, name) for template in named.values()):
                rule = f"the chat template has no variable {name}"
                remedy = "remove it, or look for its name in the template"
                raise DataError([Problem(model, "model.chat_template_kwargs", rule, remedy, variables[name])])
        named = {name: with_defaults(template, variables) for name, template in named.items()}
        tokenizer.chat_template = named if isinstance(own, Mapping) else named["default"]
    return named["default"], named.get("tool_use")


def reads(template: str, variable: str) -> bool:
    """Whether a variable's name occurs in a template."""
    return re.search(rf"(?<![\w.'\"]){re.escape(variable)}(?![\w'\"])", template) is not None


def with_defaults(template: str, variables: Mapping[str, Any]) -> str:
    """The template with values for variables that its caller does not give.

    It renders every conversation as the bare template does with these variables, so that whoever loads the saved
    tokenizer gets the text of training.
    """
    lines = (
        f"{{%- if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}\n"
        for name, value in variables.items()
    )
    return "".join(lines) + template


def _literal(value: Any) -> str:
    """A value of JSON as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def _choose(tokenizer: Any, chat_template: str | None, model: str) -> None:
    key = "model.chat_template"
    names = " or ".join(BUILT_IN)
    if chat_template is None:
        own = tokenizer.chat_template
        if own and isinstance(own, Mapping):
            _check_named(own, model)
            return
        if not own:
            rule = "the tokenizer has no chat template, which rows with messages need"
            remedy = f"write model.chat_template: {names} (built in), or name a Jinja file"
            raise DataError([Problem(model, key, rule, remedy)])
        template = str(own)
    elif is_template_file(chat_template):
        try:
            with open_to_read(chat_template, links=True) as file:
                template = file.read(_LONGEST + 1).decode("utf-8")
            if len(template) > _LONGEST:
                raise ValueError(f"more than {_LONGEST} characters")
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


def _check_named(templates: Mapping[str, str], model: str) -> None:
    """Check that several templates have the one that transformers takes."""
    if "default" not in templates:
        rule = "the tokenizer has several chat templates, and none is named default"
        remedy = f"save the one to train with as a Jinja file and name it, or write {' or '.join(BUILT_IN)}"
        raise DataError([Problem(model, "model.chat_template", rule, remedy, ", ".join(sorted(templates)))])


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
