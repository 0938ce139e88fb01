"""Text from elsewhere, made safe to show: characters that a terminal or a file format would obey become escapes."""

from __future__ import annotations

import html
import re
from typing import Final

_OBEYED: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction of the text after them
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with control and direction characters as ``\x1b`` or ``\u202e``; tabs and newlines stay."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_escape, text)


def one_line(text: str) -> str:
    """The same on one line: every run of white space is one space."""
    return visible(" ".join(text.split()))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def markdown(text: object) -> str:
    """Text that Markdown renders literally: on one line, special characters escaped."""
    escaped = html.escape(one_line(str(text)), quote=False)
    return "".join("\\" + c if c in "\\`*_{}[]#|~" else c for c in escaped)


def code(text: object) -> str:
    """Text between two backticks, on one line; there, Markdown has no escapes."""
    return one_line(str(text)).replace("`", "'")
