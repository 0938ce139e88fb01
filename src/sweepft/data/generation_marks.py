"""Chat templates without their ``{% generation %}`` marks, which only transformers can parse.

Exported folders hold the template without marks, for any Jinja, and the one with marks beside it, for training.
"""

from __future__ import annotations

import re
from typing import Final

TRAINING_TEMPLATE: Final = "training_chat_template.jinja"
"""File beside ``chat_template.jinja``: the same template with marks. A later sweep from this folder reads it."""


def training_file(name: str) -> str:
    """File of a named template with marks, beside ``additional_chat_templates/NAME.jinja`` without them."""
    return TRAINING_TEMPLATE if name == "default" else f"training_chat_template.{name}.jinja"


_TAG: Final = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
_SET: Final = re.compile(r"\{%[-+]?\s*set\s+[^.=]+?[=%]")


def without_marks(template: str) -> str:
    """The template without generation marks; it renders every conversation to the same text.

    A mark becomes an empty comment, which trims the white space around it like the mark. Where a variable is set
    between marks, it becomes a ``with`` block, which keeps the variable inside.
    """
    tags = list(_TAG.finditer(template))
    marked = (template[a.end() : b.start()] for a, b in zip(tags[::2], tags[1::2], strict=False))
    scoped = any(_SET.search(part) for part in marked)

    def replacement(tag: re.Match[str]) -> str:
        left, end, right = tag.groups()
        if scoped:
            return f"{{%{left} {'endwith' if end else 'with'} {right}%}}"
        return f"{{#{left} {right}#}}"

    return _TAG.sub(replacement, template)
