"""Writes the files of a report, each atomically, so that a reader never sees half a page.

report.html and comparison.html are self-contained files that need no network: a template around packed data. Every text
goes through jinja's autoescape or the browser's textContent.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

import sweepft.report.format as fmt
from sweepft.errors import StorageError
from sweepft.files import atomic_write
from sweepft.ledger import SweepState
from sweepft.report.best_of import LENGTH_INTRO
from sweepft.report.compare import compare
from sweepft.report.curves import page_curves, timeline, waits
from sweepft.report.summary import SIMULATED, finite, summarise
from sweepft.report.tables import comparison_markdown, markdown, ranked_csv


def write_report(
    run_dir: str | os.PathLike[str],
    *,
    live: bool = False,
    state: SweepState | None = None,
    price: float | None = None,
) -> dict[str, Path]:
    """Write the report of a run (finished, running or crashed) into its folder.

    Args:
        run_dir: The run folder.
        live: Whether the page reloads itself while it is open (during a sweep).
        state: The sweep, if the caller has it already; else the ledger is read.
        price: Of a GPU-hour (a slot-hour on a CPU), in any currency; None takes the spec's, if it has one.
    Returns:
        Paths of the files: ``csv``, ``json``, ``md``, ``html``.
    Raises:
        LedgerError, LedgerCorrupt, LedgerVersion: If there is no ledger or it cannot be trusted.
        StorageError: ``report.write``, if the folder cannot be written.
    """
    folder = Path(run_dir)
    sweep = state if state is not None else SweepState.load(folder)
    weights = folder / "weights"
    kept = [path.name for path in weights.iterdir() if path.is_dir()] if weights.is_dir() else []
    summary = summarise(sweep, price, kept)
    contents = {
        "csv": ("ranked.csv", ranked_csv(summary)),
        "json": ("report.json", json.dumps(summary, indent=1, allow_nan=False) + "\n"),
        "md": ("report.md", markdown(summary)),
        "html": ("report.html", render_page(sweep, summary, live=live)),
    }
    return {kind: _write(folder / name, text) for kind, (name, text) in contents.items()}


def write_comparison(
    run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, price: float | None = None
) -> dict[str, Path]:
    """Compare sweeps, finished or not, from their run folders or copies of them.

    Args:
        run_dirs: Run folders.
        out: Folder for the files; created if missing.
        price: Of a GPU-hour (a slot-hour on a CPU), in any currency; None takes each spec's, if it has one.
    Returns:
        Paths of the files: ``json``, ``md``, ``html``.
    Raises:
        LedgerError, LedgerCorrupt, LedgerVersion: If a run has no ledger or it cannot be trusted.
        StorageError: ``report.folder`` or ``report.write``, if the folder cannot be written.
    """
    comparison = compare([(os.fspath(d), SweepState.load(d)) for d in run_dirs], price)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(
            f"{folder}: cannot create the folder: {e.strerror or e}\n  name another one with --out",
            key="report.folder",
        ) from e
    contents = {
        "json": ("comparison.json", json.dumps(comparison, indent=1, allow_nan=False) + "\n"),
        "md": ("comparison.md", comparison_markdown(comparison)),
        "html": ("comparison.html", render_comparison(comparison)),
    }
    return {kind: _write(folder / name, text) for kind, (name, text) in contents.items()}


def _write(path: Path, text: str) -> Path:
    try:
        atomic_write(path, text, mode=0o666, sync=False)
    except OSError as e:
        raise StorageError(
            f"{path}: cannot write the report: {e.strerror or e}\n  free space or make the folder writable; "
            "the ledger is intact, and `sweepft report` writes the report again",
            key="report.write",
        ) from e
    return path


REFRESH_SECONDS: Final = 30
_SCRIPTS: Final = ("base.js", "charts.js", "search.js", "table.js", "detail.js", "main.js")


def render_page(sweep: SweepState, summary: dict[str, Any], *, live: bool = False) -> str:
    """The page of a sweep.

    Args:
        sweep: The sweep, for its curves.
        summary: `summarise(sweep)`.
        live: Whether the page reloads itself while it is open.
    """
    order = [t["trial_id"] for t in summary["trials"]]
    spec = summary["provenance"]["spec"]
    sets = (spec.get("data") or {}).get("validation") or []
    data = {
        "report": {k: v for k, v in summary.items() if k not in ("provenance", "faults", "commands")},
        "curves": finite(page_curves(sweep, order, summary["rungs"])),
        "timeline": finite(timeline(sweep)),
        "waits": finite(waits(sweep)),
        "space": (spec.get("search") or {}).get("space") or {},
        "unweighted_sets": [s["name"] for s in sets if s.get("weight", 1.0) == 0],
        "refresh": REFRESH_SECONDS if live else 0,
    }
    spec_yaml = fmt.shorten(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), 60_000)
    values = {
        "live": live,
        "spec_yaml": spec_yaml,
        "simulated": SIMULATED,
        "length_intro": LENGTH_INTRO,
    }
    return _render("page.html.jinja", _SCRIPTS, data, r=summary, **values)


def render_comparison(comparison: dict[str, Any]) -> str:
    """The page of several sweeps, from `compare`."""
    data = {"report": {k: v for k, v in comparison.items() if k != "differences"}}
    return _render("compare.html.jinja", ("base.js", "compare.js"), data, r=comparison)


def _render(template: str, scripts: Sequence[str], data: dict[str, Any], **values: Any) -> str:
    packed = _pack(json.dumps(data, separators=(",", ":"), allow_nan=False))
    script = "\n".join(_asset(name) for name in scripts)
    page = _environment().get_template(template)
    return page.render(**values, css=_asset("page.css"), scripts=script, plotly=_plotly(), data=packed)


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sweepft.report", "assets"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cells = (
        fmt.duration,
        fmt.number,
        fmt.percent,
        fmt.percent_interval,
        fmt.shorten,
        fmt.inline,
        fmt.money,
        fmt.loss,
        fmt.value,
    )
    environment.filters |= {function.__name__: function for function in cells}
    environment.filters["yaml_block"] = lambda v: yaml.safe_dump(
        v, sort_keys=False, allow_unicode=True
    ).strip()
    environment.filters["yaml"] = lambda v: yaml.safe_dump(
        v, sort_keys=False, default_flow_style=True, width=10_000
    )
    environment.filters["slug"] = lambda text: re.sub(r"[^a-z]+", "-", str(text).lower())[:20]
    environment.filters["when"] = lambda t: (
        time.strftime("%Y-%m-%d %H:%M", time.localtime(t)) if t else fmt.UNKNOWN
    )
    environment.tests["nested"] = _nested
    return environment


def _nested(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(v, dict | list) for v in values)


@lru_cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _pack(get_plotlyjs())


def _asset(name: str) -> str:
    return files("sweepft.report").joinpath("assets", name).read_text(encoding="utf-8")


def _pack(text: str) -> str:
    """Gzip, then base64: a fifth of the size, letters and digits only. Equal texts give equal bytes."""
    packed = gzip.compress(text.encode("utf-8", "replace"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")
