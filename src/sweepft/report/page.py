"""report.html: one file that needs nothing else, not even a network.

One idea: the page is a template around data. Text goes through jinja's autoescape or the browser's textContent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import yaml

from sweepft.recorder import RunView
from sweepft.report.curves import page_curves, timeline, waits
from sweepft.report.shell import asset, environment, pack, plotly
from sweepft.report.summary import SIMULATED, finite
from sweepft.report.words import shorten

__all__ = ["render_comparison", "render_page"]

REFRESH_SECONDS: Final = 30
_SCRIPTS: Final = ("base.js", "charts.js", "search.js", "table.js", "detail.js", "main.js")


def render_comparison(comparison: dict[str, Any]) -> str:
    """The page of several sweeps, from `compare`."""
    data = {"report": {k: v for k, v in comparison.items() if k != "differences"}}
    return _render("compare.html.jinja", ("base.js", "compare.js"), data, r=comparison)


def render_page(view: RunView, summary: dict[str, Any], *, live: bool = False) -> str:
    """The page of a sweep.

    Args:
        view: The sweep, for its curves.
        summary: `summarise(view)`.
        live: Whether the page shall load itself again while it is open.
    """
    order = [t["trial_id"] for t in summary["trials"]]
    given = summary["provenance"]["spec"]
    sets = (given.get("data") or {}).get("held_out") or []
    data = {
        "report": {k: v for k, v in summary.items() if k not in ("provenance", "faults", "commands")},
        "curves": finite(page_curves(view, order, summary["windows"])),
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
