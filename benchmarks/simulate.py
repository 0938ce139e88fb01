"""Driver cost per trial in a sweep of ten thousand trials, its growth, and a comparison of search strategies.

python benchmarks/simulate.py growth  [--trials 10000 --slots 512]   a simulated sweep, its report and its resume
python benchmarks/simulate.py learn   [--trials 1000 --seeds 3]      TPE with all and with a part of the finished trials
python benchmarks/simulate.py systems [--trials 48 --seeds 10]       random, Ray OptunaSearch + ASHA, sweepft
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import record
from benchmarks.simulation import compare_systems, make_courses, simulate
from benchmarks.simulation.courses import budget_of

from sweepft.driver.control import SweepControl
from sweepft.driver.restore import restored_search
from sweepft.ledger import EventLog, Ledger, SweepState
from sweepft.replay.score import bootstrap
from sweepft.search import Proposer
from sweepft.spec import SweepSpec, load

SPEC = Path(__file__).parents[1] / "sweeps/one-node-8gpu.yaml"
MARKS = (500, 1000, 2000, 5000, 10_000)


def sweep(args: argparse.Namespace, seed: int = 0) -> SweepSpec:
    given = [
        f"search.trials={args.trials}",
        f"resources.concurrent_trials={args.slots}",
        f"search.seed={seed}",
    ]
    return load(SPEC, given, check_files=False)


def yardstick() -> float:
    """CPU microseconds of a fixed loop, which show how busy the machine is."""
    begin = time.thread_time()
    for _ in range(300):
        sum(range(1000))
    return (time.thread_time() - begin) / 300 * 1e6


def growth(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    spec, folder = sweep(args), Path(tempfile.mkdtemp())
    speeds = [yardstick()]
    done = simulate(
        spec, folder / "run", make_courses(spec, None, 0), marks=[m for m in MARKS if m < args.trials],
        pages=True, on_mark=lambda mark: (speeds.append(yardstick()), print(mark.to_dict(), flush=True)),
    )  # fmt: skip
    rows = []
    before: dict[str, float] = dict.fromkeys(done.marks[-1].seconds, 0.0)
    trials = 0
    for mark in done.marks:
        each = [1000 * (mark.seconds[p] - before[p]) / (mark.trials - trials) for p in before]
        page = ["-", "-"] if mark.page_seconds is None else [mark.page_seconds, mark.page_mib]
        rows.append([f"{trials} to {mark.trials}", *each, sum(each), *page, mark.rss_mib, mark.ledger_mib])
        before, trials = mark.seconds, mark.trials
    resume = resume_seconds(done.run_dir, spec)
    heads = ["trials", *before, "all", "page (s)", "page (MiB)", "memory (MiB)", "ledger (MiB)"]
    text = [
        f"CPU milliseconds of the driver per trial, {args.slots} slots, {args.trials} trials, "
        f"{done.virtual_seconds / 3600:.0f} virtual hours:", "",
        record.table(heads, rows), "",
        f"Total: {done.driver_ms:.1f} ms per trial, including {done.report_seconds:.1f} s for the final report.",
        f"Resume: {resume['read']:.1f} s to read, {resume['rebuild']:.1f} s to rebuild search and scheduler (CPU); "
        f"{resume['wall']:.1f} s of wall time.",
        f"A fixed loop took {min(speeds):.1f} to {max(speeds):.1f} us of CPU during the run.",
    ]  # fmt: skip
    shutil.rmtree(folder) if args.keep is None else shutil.move(folder / "run", args.keep)
    figures = {"marks": [m.to_dict() for m in done.marks], "driver_ms": done.driver_ms, "resume": resume}
    return {**figures, "report_seconds": done.report_seconds, "yardstick_us": speeds}, "\n".join(text)


def resume_seconds(run_dir: Path, spec: SweepSpec) -> dict[str, float]:
    """CPU seconds of a resume before Ray starts. (`sweepft resume` itself refuses simulated sweeps.)"""
    wall, begin = time.perf_counter(), time.process_time()
    ledger, rows = Ledger.reopen(run_dir)
    with ledger:
        view = SweepState.from_rows(rows)
        read = time.process_time() - begin
        restored_search(spec, run_dir, EventLog(ledger, view), SweepControl())
    total = time.process_time() - begin
    return {
        "read": read,
        "rebuild": total - read,
        "wall": time.perf_counter() - wall,
        "rows": float(len(rows)),
    }


def learn(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Cost and quality of TPE's proposals with all and with a part of the finished trials; 16 trials at a time."""
    rows, figures = [], {}
    for cap in (None, 250, 100):
        costs, best, last = [], [], []
        for seed in range(args.seeds):
            args.slots = 16
            spec = sweep(args, seed)
            courses, proposer, under_way = make_courses(spec, None, seed), Proposer(spec, None, cap), deque()
            begin, worth = time.thread_time(), []
            for _ in range(args.trials):
                proposal = proposer.ask()
                train_config = spec.train_config(proposal.params, budget_of(spec))
                course = courses.course(proposal.params, train_config)
                worth.append(course.ideal)
                under_way.append((proposal.trial_id, float(course.validation[-1])))
                if len(under_way) == 16:
                    trial_id, value = under_way.popleft()
                    proposer.tell(trial_id, "completed", value)
            costs.append(1000 * (time.thread_time() - begin) / args.trials)
            tail = [w for w in worth[args.trials // 2 :] if np.isfinite(w)]
            best.append(min(worth))
            last.append(float(np.mean(tail)))
        name = "all" if cap is None else str(cap)
        spread = bootstrap(last) if args.seeds > 1 else (last[0], last[0])
        figures[name] = {"ms": costs, "best": best, "second_half": last}
        interval = f"{np.mean(last):.5f} [{spread[0]:.5f}, {spread[1]:.5f}]"
        rows.append([name, float(np.mean(costs)), f"{np.mean(best):.5f}", interval])
    heads = ["trials TPE uses", "ms per trial", "best true loss", "mean true loss, second half"]
    intro = f"{args.trials} trials, 16 at a time, {args.seeds} seeds; true loss in nats, lower is better:"
    return figures, intro + "\n\n" + record.table(heads, rows)


def systems(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    spec = sweep(args)
    found = compare_systems(
        spec, lambda seed: make_courses(spec, None, seed), full_trials=args.trials, seeds=args.seeds
    )
    rows = [
        [
            r.system,
            *(f"{m:.4f} [{low:.4f}, {high:.4f}]" for m, low, high in r.regret.values()),
            r.trials,
            r.completed,
        ]
        for r in found
    ]
    shares = [f"{share:.0%} of the GPU-hours" for share in found[0].regret]
    intro = (
        f"True loss above the best known configuration (nats), mean and 95% interval over {args.seeds} seeds; "
        f"{args.slots} slots for the GPU-hours of {args.trials} full trials:"
    )
    text = intro + "\n\n" + record.table(["system", *shares, "trials", "completed"], rows)
    return {"systems": [r.to_dict() for r in found]}, text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["growth", "learn", "systems"])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="growth: keep the run folder in FOLDER")
    record.add_options(parser)
    args = parser.parse_args()
    usual = {"growth": (10_000, 512, 1), "learn": (1000, 16, 3), "systems": (48, 8, 10)}[args.what]
    for name, value in zip(("trials", "slots", "seeds"), usual, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    facts = record.about()
    make = {"growth": growth, "learn": learn, "systems": systems}[args.what]
    figures, text = make(args)
    record.finish(args, f"Simulated sweeps: {args.what}", facts, figures, text)


if __name__ == "__main__":
    main()
