"""The status of a run, and its live view from another process, both read from the ledger."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.driver.progress import Progress, short_params
from sweepft.ledger import LedgerTail, SweepState, current_writer, ledger_path, winner
from sweepft.mirror.status import read_status


def status_of(run_dir: Path) -> dict[str, Any]:
    """The state of a run as plain data: ``name, status, trials (by status), running, best, writer, mirror, resume``.

    Raises:
        LedgerError: If there is no readable ledger.
    """
    view = SweepState.load(run_dir)
    best, note = winner(view), read_status(run_dir)
    return {
        "run": str(run_dir),
        "name": view.name,
        "status": view.status,
        "trials": dict(Counter(t.status for t in view.trials.values())),
        "planned_trials": view.planned_trials,
        "running": [
            {"trial_id": t.trial_id, "reach": round(t.progress, 4), "step": t.step, "params": t.params}
            for t in view.with_status("running")
        ],
        "best": best and {"trial_id": best.trial_id, "objective": best.objective, "params": best.params},
        "writer": view.writer and {"host": view.writer.host, "pid": view.writer.pid},
        "mirror": note and {"uri": note.uri, "time": note.time, "failure": note.failure},
        "resume": view.status in ("crashed", "interrupted", "limit")
        or (view.status == "paused" and view.writer is None)
        or bool(view.with_status("interrupted")),
    }


def describe_run(found: dict[str, Any]) -> str:
    """The same as text."""
    counts = ", ".join(f"{n} {status}" for status, n in sorted(found["trials"].items())) or "none yet"
    planned = f" of {found['planned_trials']}" if found["planned_trials"] else ""
    lines = [
        f"{found['name']}: {found['status']}",
        f"trials: {sum(found['trials'].values())}{planned} ({counts})",
    ]
    if found["writer"]:
        lines.append(f"driver: pid {found['writer']['pid']} on {found['writer']['host']}")
    lines += [
        f"running: {t['trial_id']} at {t['reach']:.0%}  {short_params(t['params'])}" for t in found["running"]
    ]
    if found["best"]:
        best = found["best"]
        lines.append(
            f"best so far: {best['trial_id']}  {best['objective']:.4f}  {short_params(best['params'])}"
        )
    if found["mirror"]:
        lines.append(_mirror(found["mirror"]))
    if found["status"] == "paused" and not found["resume"]:
        lines.append(f"to continue: sweepft continue {found['run']}")
    if found["resume"]:
        lines.append(f"to resume: sweepft resume {found['run']}")
    return "\n".join(lines)


def _mirror(found: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["time"]))
    state = f"up to date at {when}" if found["time"] else "nothing copied yet"
    behind = f", behind since: {found['failure'].splitlines()[0]}" if found["failure"] else ""
    return f"mirror: {found['uri']}, {state}{behind}"


_PAUSE = 0.5
"""Seconds between two reads of the ledger."""


def watch_run(run_dir: Path, console: Console | None = None) -> None:
    """Show a sweep until its driver is done or gone, then its status.

    Args:
        run_dir: The run folder.
        console: Where to draw; a table on a terminal, else a line for each event from now on.
    Raises:
        LedgerError: If there is no readable ledger.
    """
    console = console or Console()
    tail, view = LedgerTail(run_dir), SweepState()
    while rows := tail.read():
        for row in rows:
            view.apply(row)
    slots = int((view.spec.get("resources") or {}).get("concurrent_trials") or 1)
    progress = Progress(view, slots, console)
    with progress:
        while current_writer(ledger_path(run_dir).parent, quiet_seconds=math.inf) is not None:
            time.sleep(_PAUSE)
            for row in tail.read():
                view.apply(row)
                progress.on_row(row)
            if view.finish is not None and view.status != "paused":
                break
    console.print(describe_run(status_of(run_dir)), highlight=False, markup=False, soft_wrap=True)
