"""Faults injected for real, and what must be left when they are over.

One idea: processes are found among the children of this one, so that nothing outside the test is ever touched.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray

from sweepft.ledger import SweepState, read_ledger

T = TypeVar("T")

COORDINATOR, RANK = "ResourceTrainable", "Rank"
"""Actor classes of a slot, as their processes are named; Tune names the first one."""


def processes(kind: str, of: int | None = None) -> list[psutil.Process]:
    """Living worker processes of an actor class (`COORDINATOR`, `RANK`) below a process; by default below this one."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and f"ray::{kind}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def rows_of(run: Path, kind: str) -> int:
    """Rows of a kind in a ledger that may not exist yet."""
    ledger = run / "ledger" / "ledger.jsonl"
    return ledger.read_bytes().count(f'"kind":"{kind}"'.encode()) if ledger.exists() else 0


@contextmanager
def once(find: Callable[[], T | None], inject: Callable[[T], Any]) -> Iterator[list[Any]]:
    """While the block runs, wait until ``find`` finds a target and inject a fault, once; its result is in the list."""
    done: list[Any] = []
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            target = find()
            if target:
                done.append(inject(target))
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def kill(found: Sequence[psutil.Process]) -> int:
    """SIGKILL the last one; returns its pid."""
    os.kill(found[-1].pid, signal.SIGKILL)
    return int(found[-1].pid)


def story(run: Path | SweepState) -> dict[str, Any]:
    """What must not depend on faults: proposals, decisions, losses, endings."""
    view = run if isinstance(run, SweepState) else SweepState.load(run)
    return {
        name: (
            trial.params,
            trial.status,
            trial.objective,
            trial.history["loss"].tolist(),
            trial.history["grad_norm"].tolist(),
            [(e["rung"], e["objective"]) for e in trial.evals],
            {(v["rung"], v["action"], v["reason"]) for v in trial.decisions},
        )
        for name, trial in view.trials.items()
    }


def faults(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_ledger(run) if row["kind"] == "fault"]


def leaks(seconds: float = 60.0) -> list[str]:
    """Ranks, coordinators and placement groups still there after a while: Tune ends its actors a moment late."""
    deadline = time.monotonic() + seconds
    while True:
        left = [f"{kind} {p.pid}" for kind in (RANK, COORDINATOR) for p in processes(kind)]
        table = ray.util.placement_group_table() if ray.is_initialized() else {}
        left += [f"placement group {name}" for name, pg in table.items() if pg["state"] != "REMOVED"]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)
