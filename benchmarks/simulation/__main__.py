"""Sweeps of thousands of trials without training, and what they measure.

python -m benchmarks.simulation growth  [SPEC]   a run folder and report; the driver's cost per trial and of a resume
python -m benchmarks.simulation systems [SPEC]   random, Ray OptunaSearch + ASHA and sweepft over equal GPU-hours
python -m benchmarks.simulation learn   [SPEC]   TPE with all and with a part of the finished trials
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import record
from benchmarks.simulation import compare_systems, make_courses, simulate
from benchmarks.simulation.courses import budget_of

from sweepft.driver.build import restored_search
from sweepft.driver.control import SweepControl
from sweepft.ledger import EventLog, Ledger, SweepState
from sweepft.replay.score import bootstrap
from sweepft.search import Proposer
from sweepft.spec import SweepSpec, load

SPEC = Path(__file__).parents[2] / "sweeps/one-node-8gpu.yaml"
MARKS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
USUAL = {"growth": (10_000, 512, 1), "learn": (1000, 16, 3), "systems": (48, 8, 10)}
"""Trials, slots and seeds by default."""


def yardstick() -> float:
    """CPU microseconds of a fixed loop, which show how busy the machine is."""
    begin = time.thread_time()
    for _ in range(300):
        sum(range(1000))
    return (time.thread_time() - begin) / 300 * 1e6


def growth(args: argparse.Namespace, spec: SweepSpec) -> tuple[dict[str, Any], str]:
    """The driver's cost per trial between marks, with pages of the live report, and the cost of a resume."""
    out = args.out or Path(tempfile.mkdtemp()) / "run"
    speeds = [yardstick()]
    done = simulate(
        spec, out, make_courses(spec, args.curves, spec.search.seed), marks=[m for m in MARKS if m < args.trials],
        pages=True, on_mark=lambda mark: (speeds.append(yardstick()), print(mark.to_dict(), flush=True)),
    )  # fmt: skip
    rows = []
    before: dict[str, float] = dict.fromkeys(done.marks[-1].seconds, 0.0)
    trials = 0
    for mark in done.marks:
        each = [1000 * (mark.seconds[p] - before[p]) / max(1, mark.trials - trials) for p in before]
        page = ["-", "-"] if mark.page_seconds is None else [mark.page_seconds, mark.page_mib]
        rows.append([f"{trials} to {mark.trials}", *each, sum(each), *page, mark.rss_mib, mark.ledger_mib])
        before, trials = mark.seconds, mark.trials
    resume = resume_seconds(done.run_dir, spec)
    heads = ["trials", *before, "all", "page (s)", "page (MiB)", "memory (MiB)", "ledger (MiB)"]
    text = [
        f"CPU milliseconds of the driver per trial, {args.slots} slots, {args.trials} trials, "
        f"{done.virtual_seconds / 3600:.0f} virtual hours, without Ray's own loop:", "",
        record.table(heads, rows), "",
        f"Total: {done.driver_ms:.1f} ms per trial, including {done.report_seconds:.1f} s for the final report.",
        f"Resume: {resume['read']:.1f} s to read, {resume['rebuild']:.1f} s to rebuild search and scheduler (CPU); "
        f"{resume['wall']:.1f} s of wall time.",
        f"A fixed loop took {min(speeds):.1f} to {max(speeds):.1f} us of CPU during the run.",
        f"Run folder: {done.run_dir}",
    ]  # fmt: skip
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


def learn(args: argparse.Namespace, spec: SweepSpec) -> tuple[dict[str, Any], str]:
    """Cost and quality of TPE's proposals with all and with a part of the finished trials."""
    rows, figures = [], {}
    for cap in (None, 250, 100):
        costs, best, last = [], [], []
        for seed in range(spec.search.seed, spec.search.seed + args.seeds):
            seeded = load_spec(args, seed)
            courses, proposer = make_courses(seeded, args.curves, seed), Proposer(seeded, None, cap)
            begin, worth, under_way = time.thread_time(), [], deque()
            for _ in range(args.trials):
                proposal = proposer.ask()
                train_config = seeded.train_config(proposal.params, budget_of(seeded))
                course = courses.course(proposal.params, train_config)
                worth.append(course.ideal)
                under_way.append((proposal.trial_id, float(course.validation[-1])))
                if len(under_way) == args.slots:
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
    intro = f"{args.trials} trials, {args.slots} at a time, {args.seeds} seeds; true loss in nats, lower is better:"
    return figures, intro + "\n\n" + record.table(heads, rows)


def systems(args: argparse.Namespace, spec: SweepSpec) -> tuple[dict[str, Any], str]:
    """The true loss of the configuration that each system ranks first, over equal GPU-hours."""
    first = spec.search.seed
    found = compare_systems(
        spec,
        lambda seed: make_courses(spec, args.curves, first + seed),
        full_trials=args.trials,
        seeds=args.seeds,
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


def load_spec(args: argparse.Namespace, seed: int | None) -> SweepSpec:
    """The spec with the trials, slots and seed that were asked for; its model and data are not read."""
    given = [*args.set, f"search.trials={args.trials}", f"resources.concurrent_trials={args.slots}"]
    return load(
        args.spec, [*given, *([f"search.seed={seed}"] if seed is not None else [])], check_files=False
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the part that is named, and print or write its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=list(USUAL))
    parser.add_argument("spec", type=Path, nargs="?", default=SPEC)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--seeds", type=int, help="sweeps of each kind (learn, systems)")
    parser.add_argument("--seed", type=int, help="first seed; by default search.seed")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of SPEC"
    )
    parser.add_argument(
        "--curves", type=Path, help="recorded runs to play back, as `sweepft replay` reads them"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="growth: the run folder")
    record.add_options(parser)
    args = parser.parse_args(argv)
    for name, value in zip(("trials", "slots", "seeds"), USUAL[args.what], strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    facts = record.about()
    make = {"growth": growth, "learn": learn, "systems": systems}[args.what]
    figures, text = make(args, load_spec(args, args.seed))
    record.finish(args, f"Simulated sweeps: {args.what}", facts, figures, text)


if __name__ == "__main__":
    main()
