"""How numbers, texts and table cells look: one set of functions for the page, the terminal, Markdown and CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sweepft import visible
from sweepft.spec import format_value

UNKNOWN: Final = "—"
_DIRECTION_MARKS: Final = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


# --- values -------------------------------------------------------------------------------------------


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits; an em dash for what is not known; any other value as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return UNKNOWN
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
    """A fraction as a percentage."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}%"


def percent_interval(rate: dict[str, float]) -> str:
    """The bounds of ``{low, high}`` as percentages."""
    return f"{percent(rate['low'])} to {percent(rate['high'])}"


def duration(seconds: Any) -> str:
    """Seconds as ``16 ms``, ``45 s``, ``12.5 min``, ``3 h 20 min`` or ``5.2 d``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
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


def loss(value: float | None, stderr: float | None = None) -> str:
    """A loss in nats with four decimals, with its standard error where one is known."""
    if value is None:
        return UNKNOWN
    return f"{value:.4f}" if stderr is None else f"{value:.4f} ± {number(stderr, 2)}"


def value(number_: float | None, stderr: float | None, objective: dict[str, Any]) -> str:
    """A value of the objective: a loss as by `loss`, a task's metric as ``0.62 ± 0.034``.

    Args:
        number_: The value.
        stderr: Its standard error, where one is known.
        objective: Of `sweepft.report.objective.objective_summary`.
    """
    if objective["task"] is None or number_ is None:
        return loss(number_, stderr)
    return number(number_) if stderr is None else f"{number(number_)} ± {number(stderr, 2)}"


def score(found: dict[str, Any] | None) -> str:
    """A finalist's metric ``{value, stderr, change}``: value, standard error, change from the base model."""
    if not found:
        return UNKNOWN
    stderr = f" ± {number(found['stderr'], 2)}" if found["stderr"] is not None else ""
    change = f" ({found['change']:+.3g})" if found["change"] is not None else ""
    return f"{number(found['value'])}{stderr}{change}"


def inline(value: Any) -> str:
    """Any plain value on one line: ``math 224, retention 200`` for a mapping, ``none`` for an empty one."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {inline(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(inline(v) for v in value) or "none"
    return number(value, 6) if isinstance(value, float) else UNKNOWN if value is None else str(value)


def assignments(params: dict[str, Any]) -> str:
    """Hyperparameters as ``learning_rate = 0.001, batch_size = 8``."""
    return ", ".join(f"{key} = {number(value)}" for key, value in params.items())


def counts(by_status: dict[str, int]) -> str:
    """Trials by status: ``12 completed, 3 stopped``."""
    return ", ".join(f"{n} {status}" for status, n in by_status.items()) or "none"


# --- the sentences on cost, which several outputs share -----------------------------------------------


def time_unit(cost: dict[str, Any]) -> str:
    """What the times of a cost summary are of: ``GPU`` or ``slot``."""
    return "GPU" if cost["unit"] == "gpu_seconds" else "slot"


def savings(cost: dict[str, Any]) -> str:
    """What early stopping saved."""
    return f"early stopping saved {percent(cost['saved_share'])} ({duration(cost['saved'])})"


def price(cost: dict[str, Any]) -> str:
    """What the sweep cost in money; for a cost summary with a price."""
    amounts, unit = cost["price"], time_unit(cost)
    return (
        f"{money(amounts['paid'])} for all {unit} time at {money(amounts['per_hour'])} per {unit}-hour; "
        f"early stopping saved {money(amounts['saved'])}"
    )


# --- texts --------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """The text on one line, without control characters, which a terminal would interpret."""
    return "".join(c if c.isprintable() else " " for c in text)


def shorten(text: Any, limit: int) -> str:
    """The text, cut with an ellipsis, without Unicode marks that change the direction of all text after them."""
    shown = str(text).translate(_DIRECTION_MARKS)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


# --- cells of Markdown and CSV ------------------------------------------------------------------------


def markdown(text: Any, limit: int = 300) -> str:
    """Text that Markdown renders literally: on one line, special characters escaped, no longer than ``limit``."""
    return visible.markdown(shorten(one_line(str(text)), limit))


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table; cells are escaped."""
    lines = ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in (heads, *rows)]
    return [lines[0], "|" + " --- |" * len(heads), *lines[1:]]


_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file: empty for what is not known, JSON for nested values, never a spreadsheet formula."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, str):
        value = one_line(value).translate(_DIRECTION_MARKS)
        return "'" + value if value.lstrip()[:1] in _FORMULA else value
    return value
