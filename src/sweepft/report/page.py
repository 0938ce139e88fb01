"""report.html: one file that needs nothing else, not even a network.

One idea: the page is a template around data. Text goes through jinja's autoescape or the browser's
    textContent;
the charts' library and the data travel compressed, as base64, where no text of a trial can be mistaken for
markup.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sweepft.recorder import RunView
from sweepft.report.curves import page_curves, timeline, waits
from sweepft.report.summary import finite
from sweepft.report.words import duration, money, number, percent, said, shorten

__all__ = ["render_page"]

REFRESH_SECONDS: Final = 30
_SCRIPTS: Final = ("base.js", "charts.js", "search.js", "table.js", "detail.js", "main.js")


def render_page(view: RunView, summary: dict[str, Any], *, live: bool = False) -> str:
    """The page of a sweep.

    Args:
        view: The sweep, for its curves.
        summary: `summarise(view)`.
        live: Whether the page shall load itself again while it is open.
    """
    order = [t["trial_id"] for t in summary["trials"]]
    data = {
        "report": {k: v for k, v in summary.items() if k not in ("provenance", "faults")},
        "curves": finite(page_curves(view, order, summary["windows"])),
        "timeline": finite(timeline(view)),
        "waits": finite(waits(view)),
        "space": (summary["provenance"]["spec"].get("search") or {}).get("space") or {},
        "refresh": REFRESH_SECONDS if live else 0,
    }
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            r=summary,
            live=live,
            spec_yaml=shorten(
                yaml.safe_dump(summary["provenance"]["spec"], sort_keys=False, allow_unicode=True), 60_000
            ),
            css=_asset("page.css"),
            scripts="\n".join(_asset(name) for name in _SCRIPTS),
            plotly=_plotly(),
            data=_pack(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        )
    )


@lru_cache
def _environment() -> Environment:
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
    environment.tests["nested"] = _is_nested
    environment.filters["when"] = lambda t: time.strftime("%Y-%m-%d %H:%M", time.localtime(t)) if t else "—"
    environment.filters["yaml"] = lambda v: yaml.safe_dump(
        v, sort_keys=False, default_flow_style=True, width=10_000
    )
    return environment


def _is_nested(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(v, dict | list) for v in values)


@lru_cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _pack(get_plotlyjs())


def _asset(name: str) -> str:
    return files("sweepft.report").joinpath("assets", name).read_text(encoding="utf-8")


def _pack(text: str) -> str:
    """Gzip, then base64: a fifth of the size, and letters and digits only. Same text, same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=9, mtime=0)).decode(
        "ascii"
    )
