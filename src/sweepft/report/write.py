"""Writes the files of a report, each atomically, so that a reader never sees half a page."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from sweepft.errors import StorageError
from sweepft.ledger import SweepState
from sweepft.report.compare import compare
from sweepft.report.html import render_comparison, render_page
from sweepft.report.summary import summarise
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
    summary = summarise(sweep, price)
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
    """Write under a temporary name, then rename. Lone surrogates are written as question marks."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(text.encode("utf-8", "replace"))
        temporary.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot write the report: {e.strerror or e}\n  free space or make the folder writable; "
            "the ledger is intact, and `sweepft report` writes the report again",
            key="report.write",
        ) from e
    return path
