"""Variables of a chat template: values that a spec or a row gives it beside the messages and the tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from sweepft.spec.fields import invalid

_OURS: Final = frozenset(
    (
        *("messages", "conversation", "conversations", "tools", "documents", "chat_template", "tokenize"),
        *(
            "add_generation_prompt",
            "continue_final_message",
            "return_assistant_tokens_mask",
            "loop",
            "raise_exception",
        ),
        *("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"),
    )
)
"""Names that a template gets from the row, the tokenizer or the renderer."""


def variable_problem(variables: Mapping[Any, Any]) -> tuple[str, str, str] | None:
    """Name, rule and remedy of a variable that cannot be given; None if all can."""
    for name, value in variables.items():
        if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
            return str(name), "must be the name of a variable of the template", "for example enable_thinking"
        if name in _OURS:
            remedy = "remove it: rows, tokenizer and tools give it"
            return name, "is a variable that every template gets already", remedy
        if not _is_plain(value):
            rule = "must be a value of JSON other than null"
            return name, rule, "write true, false, a number, a text, a list or a mapping, or leave it out"
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _usable(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    problem = variable_problem(variables)
    if problem is not None:
        name, rule, remedy = problem
        raise invalid(f"{name} {rule}", remedy)
    return variables


TemplateVariables = Annotated[Mapping[str, Any], Field(min_length=1), AfterValidator(_usable)]
"""Names and values of variables of a chat template."""
