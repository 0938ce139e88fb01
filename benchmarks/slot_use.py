"""Slot utilisation with short trials: a sweep of trials of about two seconds on several slots.

    python benchmarks/slot_use.py [--json FILE] [--md FILE] [--slots 4] [--trials 24] [--steps 100]

Warm slots can take every trial while other slots are still starting, and a slot that is up must not be idle. ``busy``
is the fraction of a slot's time, since its ranks were up, that it spent in trials (steps, validation losses, switches).
With more slots than cores, trials take longer and the fractions stay comparable.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import record
from material import Shape, make, write_spec
from slot_time import SlotTime, slot_times

TINY = Shape(hidden=64, layers=2, heads=4, intermediate=128)
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Slot use with short trials; see the module.")
    record.add_options(parser)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()

    from sweepft.driver.ray_session import set_environment

    set_environment()
    facts = record.about()
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as name:
        slots, seconds = sweep(Path(name), args)
    figures = fold(slots, seconds)
    record.finish(args, "Slot use with short trials", facts, figures, page(figures))


def sweep(folder: Path, args: argparse.Namespace) -> tuple[dict[str, SlotTime], float]:
    """Run the sweep; returns the time of each slot and the wall seconds of the sweep without Ray's start."""
    import ray
    from rich.console import Console

    from sweepft.data import prepare_in_child
    from sweepft.driver.start import start_sweep
    from sweepft.spec import load

    material = make(folder / "material", TINY, rows=1200)
    search = {
        "trials": args.trials, "sampler": "random", "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
    }  # fmt: skip
    file = write_spec(
        folder / "short.yaml", material, validation=16, rungs=(0.5,), search=search,
        train={"budget": {"samples": BATCH * args.steps}, "batch_size": BATCH, "micro_batch": BATCH},
        resources={"concurrent_trials": args.slots},
    )  # fmt: skip
    spec = load(file)
    prepare_in_child(spec, folder / "run" / "cache")
    ray.init(
        address="local",
        num_cpus=args.slots + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        begin = time.perf_counter()
        with (folder / "console.txt").open("w") as console:
            start_sweep(spec, folder / "run", console=Console(file=console))
        return slot_times(folder / "run"), time.perf_counter() - begin
    finally:
        ray.shutdown()


def fold(slots: dict[str, SlotTime], seconds: float) -> dict[str, Any]:
    """The figures: one row per slot, in the order in which they came up."""
    ordered = sorted(slots.values(), key=lambda s: s.ready)
    first_up, last = ordered[0].ready, max(s.end for s in ordered)
    rows = [
        {
            "up_after_seconds": s.ready - first_up,
            "start_seconds": s.start,
            "trials": s.trials,
            "trial_seconds": (s.warm_seconds - s.seconds["waiting"]) / s.trials,
            "busy": 1.0 - s.share("waiting"),
            "idle_at_end_seconds": last - s.end,
        }
        for s in ordered
    ]
    warm = sum(last - s.ready for s in ordered)
    return {
        "seconds": seconds,
        "slots": rows,
        "busy_of_capacity": sum(s.warm_seconds - s.seconds["waiting"] for s in ordered) / warm,
        "most_trials_share": max(s.trials for s in ordered) / sum(s.trials for s in ordered),
    }


def page(f: dict[str, Any]) -> str:
    """The table as Markdown."""
    header = [
        "slot",
        "up after (s)",
        "start of its ranks (s)",
        "trials",
        "seconds per trial",
        "busy",
        "idle at the end (s)",
    ]
    rows = [
        [
            i, r["up_after_seconds"], r["start_seconds"], r["trials"], r["trial_seconds"], f"{r['busy']:.1%}",
            r["idle_at_end_seconds"],
        ]
        for i, r in enumerate(f["slots"])
    ]  # fmt: skip
    return (
        record.table(header, rows)
        + f"\n\nThe slots together were busy for {f['busy_of_capacity']:.1%} of the time they were up; "
        f"the busiest ran {f['most_trials_share']:.0%} of the trials."
    )


if __name__ == "__main__":
    main()
