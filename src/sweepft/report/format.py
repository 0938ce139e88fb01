"""Numbers and texts as people read them, the same in every output."""

from __future__ import annotations

import math
from typing import Any, Final

from sweepft.spec import format_value

_TURNS: Final = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits; an em dash for what is not known; any other value as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "—"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shorten(one_line(format_value(value)), 80)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{digits}g}"


def percent(value: Any, digits: int = 0) -> str:
    """A share as a percentage."""
    return "—" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}%"


def duration(seconds: Any) -> str:
    """Seconds as ``16 ms``, ``45 s``, ``12.5 min``, ``3 h 20 min`` or ``5.2 d``."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    if 0 < seconds < 0.095:
        return f"{max(1, round(1000 * seconds))} ms"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{seconds / 86400:.1f} d"


def money(value: float) -> str:
    """An amount of no stated currency: with cents up to a thousand, then without."""
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def said(value: Any) -> str:
    """Any plain value in words: ``math 224, retention 200`` for a mapping, ``none`` for an empty one."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {said(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(said(v) for v in value) or "none"
    return number(value, 6) if isinstance(value, float) else "—" if value is None else str(value)


def one_line(text: str) -> str:
    """The text on one line, without control characters (a terminal would obey them)."""
    return "".join(c if c.isprintable() else " " for c in text)


def shorten(text: Any, limit: int) -> str:
    """The text, cut with an ellipsis, without signs that turn the direction of all text after them."""
    shown = str(text).translate(_TURNS)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
