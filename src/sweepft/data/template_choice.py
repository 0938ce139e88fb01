"""Which chat template a sweep uses: the tokenizer's own, a built-in one, or a Jinja file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.errors import DataError, Problem
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
_CHATML_TOKENS: Final = ("<|im_start|>", "<|im_end|>")


def choose_template(tokenizer: Any, chat_template: str | None, model: str) -> tuple[str, str | None]:
    """The template a sweep uses, set on the tokenizer too, with the tokens it needs added.

    A tokenizer may have several templates by name: transformers takes ``tool_use`` for conversations with tools, and
    ``default`` for others. The tokenizer keeps all of them.

    Args:
        tokenizer: A transformers tokenizer; changed in place.
        chat_template: A built-in name, a Jinja file, or None for the tokenizer's own.
        model: The model's path, for error messages.
    Returns:
        The template, and the one for conversations with tools if that is another one.
    Raises:
        DataError: If there is no such template, or the tokenizer has none.
    """
    key = "model.chat_template"
    names = " or ".join(BUILT_IN)
    if chat_template is None:
        own = tokenizer.chat_template
        if own and isinstance(own, Mapping):
            return _named(own, model)
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
    return template, None


def _named(templates: Mapping[str, str], model: str) -> tuple[str, str | None]:
    """Of several templates the ones that transformers takes."""
    if "default" not in templates:
        rule = "the tokenizer has several chat templates, and none is named default"
        remedy = f"save the one to train with as a Jinja file and name it, or write {' or '.join(BUILT_IN)}"
        raise DataError([Problem(model, "model.chat_template", rule, remedy, ", ".join(sorted(templates)))])
    return templates["default"], templates.get("tool_use")


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
