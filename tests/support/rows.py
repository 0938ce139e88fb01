"""Rows for tests, in few words."""

from __future__ import annotations

from typing import Any

from sweepft.data.rows import Row, Turn


def turns(*pairs: tuple[str, str] | Turn) -> tuple[Turn, ...]:
    """Turns from ``(role, content)`` pairs; a `Turn` is taken as it is."""
    return tuple(pair if isinstance(pair, Turn) else Turn(*pair) for pair in pairs)


def chat(*pairs: tuple[str, str] | Turn, where: str = "here", **options: Any) -> Row:
    """A conversation as a row; `options` are further fields of `Row`."""
    return Row(turns(*pairs), options.pop("domain", None), where, **options)
