"""How a run stands, read from its ledger: live, finished or crashed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from sweepft.launch.progress import short_config
from sweepft.mirror.note import read_note
from sweepft.recorder import RunView

__all__ = ["describe_run", "status_of"]


def status_of(run_dir: Path) -> dict[str, Any]:
    """The state of a run as plain data: ``name, status, trials (by status), running, best, writer, mirror, resume``.

    Raises:
        LedgerError: If there is no readable ledger.
    """
    view = RunView.load(run_dir)
    best, note = view.best, read_note(run_dir)
    return {
        "run": str(run_dir),
        "name": view.name,
        "status": view.status,
        "trials": dict(Counter(t.status for t in view.trials.values())),
        "planned_trials": view.planned_trials,
        "running": [
            {"trial_id": t.trial_id, "reach": round(t.reach, 4), "step": t.step, "config": t.config}
            for t in view.with_status("running")
        ],
        "best": best and {"trial_id": best.trial_id, "objective": best.objective, "config": best.config},
        "writer": view.writer and {"host": view.writer.host, "pid": view.writer.pid},
        "mirror": note and {"uri": note.uri, "time": note.time, "failure": note.failure},
        "resume": view.status in ("crashed", "interrupted", "limit")
        or (view.status == "paused" and view.writer is None)
        or bool(view.with_status("interrupted")),
    }


def describe_run(found: dict[str, Any]) -> str:
    """The same for a person."""
    counts = ", ".join(f"{n} {status}" for status, n in sorted(found["trials"].items())) or "none yet"
    planned = f" of {found['planned_trials']}" if found["planned_trials"] else ""
    lines = [
        f"{found['name']}: {found['status']}",
        f"trials: {sum(found['trials'].values())}{planned} ({counts})",
    ]
    if found["writer"]:
        lines.append(f"driver: pid {found['writer']['pid']} on {found['writer']['host']}")
    lines += [
        f"running: {t['trial_id']} at {t['reach']:.0%}  {short_config(t['config'])}" for t in found["running"]
    ]
    if found["best"]:
        best = found["best"]
        lines.append(f"ahead: {best['trial_id']}  {best['objective']:.4f}  {short_config(best['config'])}")
    if found["mirror"]:
        lines.append(_mirror(found["mirror"]))
    if found["status"] == "paused" and not found["resume"]:
        lines.append(f"go on with: sweepft continue {found['run']}")
    if found["resume"]:
        lines.append(f"go on with: sweepft resume {found['run']}")
    return "\n".join(lines)


def _mirror(found: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["time"]))
    state = f"up to date at {when}" if found["time"] else "nothing sent yet"
    behind = f", behind since: {found['failure'].splitlines()[0]}" if found["failure"] else ""
    return f"mirror: {found['uri']}, {state}{behind}"
