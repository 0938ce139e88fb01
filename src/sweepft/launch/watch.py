"""The live view of a sweep that runs elsewhere: the same renderer as of `sweepft run`, fed from the ledger."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from sweepft.launch.progress import Progress
from sweepft.launch.status import describe_run, status_of
from sweepft.recorder import LedgerTail, RunView, ledger_path, named_writer

__all__ = ["watch_run"]

_PAUSE = 0.5
"""Seconds between looks."""


def watch_run(run_dir: Path, console: Console | None = None) -> None:
    """Show a sweep until its driver is done or gone, then how it stands.

    Args:
        run_dir: The run folder.
        console: Where to draw; a table on a terminal, else a line for each event from now on.
    Raises:
        LedgerError: If there is no readable ledger.
    """
    console = console or Console()
    tail, view = LedgerTail(run_dir), RunView()
    while rows := tail.read():
        for row in rows:
            view.apply(row)
    slots = int((view.spec.get("resources") or {}).get("concurrent_trials") or 1)
    progress = Progress(view, slots, console)
    with progress:
        while named_writer(ledger_path(run_dir).parent) is not None:
            time.sleep(_PAUSE)
            for row in tail.read():
                view.apply(row)
                progress.on_row(row)
            if view.finish is not None and view.status != "paused":
                break
    console.print(describe_run(status_of(run_dir)), highlight=False, markup=False, soft_wrap=True)
