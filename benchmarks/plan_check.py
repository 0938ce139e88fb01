"""Accuracy of `sweepft plan --measure`: its memory and time compared with a sweep that is then run.

    python benchmarks/plan_check.py --size 30M [--json FILE]         one size: plan, measure, run
    python benchmarks/plan_check.py --page FILE [FILE ...] [--md FILE]    the table of several

The plan is made first, by sweepft's own functions. The sweep uses no early stopping. A rank's memory is the high-water
mark of its process (``VmHWM``), read while the sweep runs. Time is what the ledger attributes to slots: the start of
Ray, ranks and engine up to a slot's first step, and trials (resets, steps, evaluations and the time between them).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
from material import SIZES, Material, make, write_spec

SIZES = {name: SIZES[name] for name in ("1M", "30M")} | {"125M": replace(SIZES["125M"], vocab=50_000)}
BUDGET = {"1M": 4000, "30M": 128, "125M": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description="A plan against the run; see the module.")
    record.add_options(parser)
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--rates", type=int, default=1, help="learning rates, each with two batch sizes")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--page", nargs="+", type=Path, metavar="FILE")
    args = parser.parse_args()
    facts = record.about()
    if args.page:
        rows = [json.loads(file.read_text()) for file in args.page]
        figures = {"rows": rows}
        record.finish(args, "`sweepft plan` compared with the run", facts, figures, page(rows))
        return
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as folder:
        figures = one(Path(folder), args)
    record.finish(args, f"A plan against its run, {args.size}", facts, figures, page([figures]))


def one(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Plan a sweep, run it, and return both figures."""
    from rich.console import Console

    from sweepft.driver.ray_session import set_environment
    from sweepft.driver.start import start_sweep
    from sweepft.ledger import read_ledger
    from sweepft.plan import Flags, make_plan
    from sweepft.spec import load

    set_environment()
    material: Material = make(folder / "material", SIZES[args.size], rows=600)
    file = write_spec(
        folder / "sweep.yaml",
        material,
        validation=32,
        rungs=(0.25, 0.5),
        train={"budget": {"samples": BUDGET[args.size]}, "micro_batch": 8},
        search={
            "sampler": "grid",
            "space": {
                "batch_size": {"choice": [8, 16]},
                "learning_rate": {"choice": [1e-4 * (i + 1) for i in range(args.rates)]},
            },
        },
        resources={"concurrent_trials": args.slots},
    )
    spec = load(file)
    plan = make_plan(spec, Flags(measure=True))
    peaks = Peaks("ray::Rank")
    begin = time.monotonic()
    with peaks, (folder / "progress.txt").open("w") as progress:
        start_sweep(spec, folder / "run", console=Console(file=progress))
    wall = time.monotonic() - begin
    rows = read_ledger(folder / "run")
    cold = {row["trial_id"] for row in rows if row["kind"] == "start" and not row["warm"]}
    spent: dict[str, float] = {}
    for cost in (row for row in rows if row["kind"] == "cost"):
        first = cost["phase"] == "startup" or (cost["phase"] == "switch" and cost["trial_id"] in cold)
        phase = "start" if first else cost["phase"]
        spent[phase] = spent.get(phase, 0.0) + cost["seconds"]
    assert plan.memory is not None
    assert plan.measured is not None
    assert plan.cost is not None
    return {
        "size": args.size,
        "parameters": plan.model.parameters if plan.model is not None else None,
        "slots": args.slots,
        "trials": 2 * args.rates,
        "memory_said": plan.memory.total,
        "memory_measured_by_plan": plan.measured.peak_bytes,
        "memory_of_run": max(peaks.found.values()),
        "trials_said": 2 * args.rates * plan.cost.trial_seconds,
        "trials_of_run": sum(seconds for phase, seconds in spent.items() if phase not in ("start", "idle")),
        "start_said": plan.measured.start_seconds,
        "start_of_run": spent["start"],
        "switch_said": plan.measured.switch_seconds,
        "step_seconds_said": dict(plan.measured.step_seconds),
        "wall_seconds_of_run": wall,
        "seconds_by_phase": spent,
    }


class Peaks:
    """Peak resident memory (bytes, by process id) of the processes whose command line begins with a title."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.found: dict[int, int] = {}

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if not (process / "cmdline").read_bytes().startswith(self._title.encode()):
                        continue
                    status = (process / "status").read_text()
                except OSError:
                    continue  # the process has ended
                peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
                if peak is not None:
                    self.found[int(process.name)] = int(peak.split()[1]) * 1024


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    gib = 2**30
    lines = [
        [
            row["size"],
            row["memory_said"] / gib,
            row["memory_of_run"] / gib,
            f"{row['memory_said'] / row['memory_of_run'] - 1:+.0%}",
            row["trials_said"],
            row["trials_of_run"],
            f"{row['trials_said'] / row['trials_of_run'] - 1:+.0%}",
            row["start_said"],
            row["start_of_run"],
            row.get("about", {}).get("load_before", ""),
        ]
        for row in rows
    ]
    head = ["size", "planned memory (GiB)", "measured", "error", "planned trials (s)", "measured", "error"]
    head += ["planned start (s)", "measured", "load before"]
    return record.table(head, lines)


if __name__ == "__main__":
    main()
