"""Share of slot time that a task as the objective takes: ``python benchmarks/task_objective_share.py``.

Real sweeps on the demo's model at ZeRO-2 on one rank and ZeRO-3 on two: one that measures the task at every rung
(``max_share: 1``), and one with the default ``max_share``. Slot time is what the ledger has for a trial: training,
data, evaluation, switch, export. Only warm trials count, whose ranks have trained another one before.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import record
import yaml

LAYOUTS: Final = {"ZeRO-2, one rank": (2, 1), "ZeRO-3, two ranks": (3, 2)}
RUNGS: Final = (0.25, 0.5)
BATCH: Final = 16
TASK: Final = """\
task: demo_skills
dataset_path: json
dataset_kwargs: {data_files: {test: skills.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{messages[0]['content']}}"
doc_to_target: "{{messages[1]['content']}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 24}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a task objective; see the module.")
    record.add_options(parser)
    parser.add_argument("--steps", type=int, default=64, help="optimizer steps of a trial")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="default: both")
    args = parser.parse_args()

    from sweepft.driver.ray_session import set_environment

    set_environment()
    facts, rows = record.about(), []
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as name:
        from sweepft.demo import make_demo

        demo = make_demo(Path(name) / "demo").parent
        write_task(Path(name) / "tasks", args.items)
        for layout in args.layout or LAYOUTS:
            for share in (1.0, 0.1):
                folder = Path(name) / f"run{len(rows)}"
                folder.mkdir()
                rows.append(sweep(folder, demo, layout, share, args))
                print(rows[-1], flush=True)
    title = "Share of slot time that a task as the objective takes"
    record.finish(args, title, facts, {"sweeps": rows}, page(rows, args))


def write_task(folder: Path, items: int) -> None:
    """A task of the harness: name the day of the week of a date."""
    from sweepft.demo.skills import NEW_SKILLS, skill_rows

    folder.mkdir()
    (folder / "demo_skills.yaml").write_text(TASK)
    weekday = next(skill for skill in NEW_SKILLS["dates"] if "weekday" in skill.__name__)
    rows = skill_rows({"dates": (weekday,)}, items, seed=9)
    (folder / "skills.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sweep(folder: Path, demo: Path, layout: str, share: float, args: argparse.Namespace) -> dict[str, Any]:
    """Run one sweep; returns its figures."""
    import ray
    from rich.console import Console

    from sweepft.driver.start import start_sweep
    from sweepft.spec import load

    stage, ranks = LAYOUTS[layout]
    tasks = folder.parent / "tasks"
    wanted = {"task": "demo_skills", "metric": "exact_match", "limit": args.items, "include_path": str(tasks),
              "batch_size": 20}  # fmt: skip
    sections = {
        "name": "share",
        "model": {"path": str(demo / "demo-model")},
        "data": {
            "train": [{"path": str(demo / "demo-data" / "skills.jsonl")}],
            "validation": [{"name": "own", "fraction": 0.15}],
            "max_length": 128,
        },
        "objective": {"maximize": wanted, "max_share": share},
        "train": {
            "budget": {"samples": BATCH * args.steps}, "batch_size": BATCH, "micro_batch": BATCH // ranks,
            "precision": "fp32", "zero_stage": stage,
        },
        "search": {
            "trials": args.trials, "sampler": "random", "space": {"learning_rate": {"log_uniform": [1e-3, 1e-2]}},
        },
        "early_stop": {"rule": "none", "rungs": list(RUNGS)},
        "resources": {"concurrent_trials": 1, "workers_per_trial": ranks},
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sections))
    ray.init(address="local", num_cpus=ranks + 1, include_dashboard=False, log_to_driver=False,
             logging_level=logging.ERROR)  # fmt: skip
    try:
        with (folder / "console.txt").open("w") as console:
            view = start_sweep(load(file), folder / "run", console=Console(file=console)).view
    finally:
        ray.shutdown()
    return {"layout": layout, "max_share": share} | fold(view)


def fold(view: Any) -> dict[str, Any]:
    """Median figures of the warm trials of a sweep."""
    from sweepft.ledger import task_seconds

    warm = [trial for trial in view.search_trials if trial.attempts and trial.attempts[0].warm]
    taken = [[s for row in t.evals if (s := task_seconds(row)) is not None] for t in warm]
    spent = [sum(seconds for phase, seconds in t.costs.items() if phase != "lost") for t in warm]
    losses = [sum(row["seconds"] for row in t.evals) for t in warm]
    middle = statistics.median
    return {
        "warm_trials": len(warm),
        "measurements": middle([len(one) for one in taken]),
        "task_seconds": middle([s for one in taken for s in one]),
        "trial_seconds": middle(spent),
        "task_share": sum(map(sum, taken)) / sum(spent),
        "loss_share": sum(losses) / sum(spent),
    }


def page(rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The table as Markdown."""
    header = ["sweep", "max_share", "warm trials", "measurements a trial", "seconds of one", "seconds of a trial",
              "share of the task", "share of the validation losses"]  # fmt: skip
    cells = [
        [
            r["layout"], f"{r['max_share']:g}", r["warm_trials"], f"{r['measurements']:g}", r["task_seconds"],
            r["trial_seconds"], f"{r['task_share']:.1%}", f"{r['loss_share']:.1%}",
        ]
        for r in rows
    ]  # fmt: skip
    return (
        f"The demo's model (0.5 M parameters) on CPUs; trials of {args.steps} steps of {BATCH} samples; a task of "
        f"{args.items} items of at most 24 tokens, at {' and '.join(f'{rung:.0%}' for rung in RUNGS)} of the budget "
        "and at the end; 495 validation rows at the same points.\n\n" + record.table(header, cells)
    )


if __name__ == "__main__":
    main()
