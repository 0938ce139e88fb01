"""The rating in what a judge wrote, or nothing: a text without one is a failed verdict, never a zero."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_verdict"]

_LOWEST, _HIGHEST = 1.0, 10.0
_FORMS: Final = (
    re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]"),
    re.compile(r"(?<![\w\])\[])\[\s*(\d+(?:\.\d+)?)\s*\](?!\])"),  # but not x[1]
)


def parse_verdict(text: str) -> float | None:
    """The rating from 1 to 10, or None.

    ``[[7]]`` counts before ``[7]``, and the last of a form before the others: judges explain first and may quote the
    answer, which may hold such marks itself.
    """
    for form in _FORMS:
        found = form.findall(text)
        if found:
            value = float(found[-1])
            return value if _LOWEST <= value <= _HIGHEST else None
    return None
