"""report.html: one file that needs nothing else, not even a network.

One idea: the page is a template around data. Text goes through jinja's autoescape or the browser's textContent.
"""
# MERGED What every page is made of: templates, styles, scripts, and how data travels in it.

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sweepft.ledger import SweepState
from sweepft.report.curves import page_curves, timeline, waits
from sweepft.report.format import duration, money, number, percent, said, shorten
from sweepft.report.summary import SIMULATED, finite


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


REFRESH_SECONDS: Final = 30


_SCRIPTS: Final = ("base.js", "charts.js", "search.js", "table.js", "detail.js", "main.js")


def render_comparison(comparison: dict[str, Any]) -> str:
    """The page of several sweeps, from `compare`."""
    data = {"report": {k: v for k, v in comparison.items() if k != "differences"}}
    return _render("compare.html.jinja", ("base.js", "compare.js"), data, r=comparison)


def render_page(view: SweepState, summary: dict[str, Any], *, live: bool = False) -> str:
    """The page of a sweep.

    Args:
        view: The sweep, for its curves.
        summary: `summarise(view)`.
        live: Whether the page shall load itself again while it is open.
    """
    order = [t["trial_id"] for t in summary["trials"]]
    given = summary["provenance"]["spec"]
    sets = (given.get("data") or {}).get("validation") or []
    data = {
        "report": {k: v for k, v in summary.items() if k not in ("provenance", "faults", "commands")},
        "curves": finite(page_curves(view, order, summary["rungs"])),
        "timeline": finite(timeline(view)),
        "waits": finite(waits(view)),
        "space": (given.get("search") or {}).get("space") or {},
        "aside": [
            s["name"] for s in sets if s.get("weight", 1.0) == 0
        ],  # measured, and no part of the objective
        "refresh": REFRESH_SECONDS if live else 0,
    }
    spec = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    said = {"live": live, "spec_yaml": shorten(spec, 60_000), "simulated": SIMULATED}
    return _render("page.html.jinja", _SCRIPTS, data, r=summary, **said)


def _render(template: str, scripts: Sequence[str], data: dict[str, Any], **values: Any) -> str:
    return (
        environment()
        .get_template(template)
        .render(
            **values,
            css=asset("page.css"),
            scripts="\n".join(asset(name) for name in scripts),
            plotly=plotly(),
            data=pack(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        )
    )
