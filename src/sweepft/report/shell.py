"""What every page is made of: templates, styles, scripts, and how data travels in it.

One idea: the charts' library and the data go compressed, as base64, where no text can be mistaken for markup.
"""

from __future__ import annotations

import base64
import gzip
import re
import time
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sweepft.report.words import duration, money, number, percent, said, shorten

__all__ = ["asset", "environment", "pack", "plotly"]


@lru_cache
def environment() -> Environment:
    """Templates of the report, autoescaped, with words for numbers as filters."""
    environment = Environment(
        loader=PackageLoader("sweepft.report", "assets"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "number": number, "percent": percent, "shorten": shorten}
    environment.filters |= {"said": said, "money": money}
    environment.filters["yaml_block"] = lambda v: yaml.safe_dump(
        v, sort_keys=False, allow_unicode=True
    ).strip()
    environment.tests["nested"] = _nested
    environment.filters["slug"] = lambda text: re.sub(r"[^a-z]+", "-", str(text).lower())[:20]
    environment.filters["when"] = lambda t: time.strftime("%Y-%m-%d %H:%M", time.localtime(t)) if t else "—"
    environment.filters["yaml"] = lambda v: yaml.safe_dump(
        v, sort_keys=False, default_flow_style=True, width=10_000
    )
    return environment


def _nested(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(v, dict | list) for v in values)


@lru_cache
def plotly() -> str:
    """The charts' library, packed."""
    from plotly.offline import get_plotlyjs

    return pack(get_plotlyjs())


def asset(name: str) -> str:
    """A stylesheet or script of the report."""
    return files("sweepft.report").joinpath("assets", name).read_text(encoding="utf-8")


def pack(text: str) -> str:
    """Gzip, then base64: a fifth of the size, and letters and digits only. Same text, same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=9, mtime=0)).decode(
        "ascii"
    )
