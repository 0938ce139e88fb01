"""What a task as the objective takes of slot time: sweeps of the demo model judged by exact match on its skills.

    python benchmarks/task_objective.py [--json FILE] [--md FILE] [--demo FOLDER] [--items 60] [--trials 3]

One row an engine: ZeRO-2 with one rank, and ZeRO-3 with two. All trials are measured at two rungs and at the end. The
first trial, which starts the ranks and loads the task, does not count.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import record
import yaml

ENGINES = ((2, 1), (3, 2))
TASK = """\
task: demo_skills
dataset_path: json
dataset_kwargs: {data_files: {test: skills-test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{messages[0]['content']}}"
doc_to_target: "{{messages[1]['content']}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 24}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Slot time of a task objective; see the module.")
    record.add_options(parser)
    parser.add_argument("--demo", type=Path, help="folder of a demo that exists; by default one is made")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--samples", type=int, default=1536)
    parser.add_argument("--trials", type=int, default=3)
    args = parser.parse_args()

    from sweepft.driver.ray_session import set_environment

    set_environment()
    facts = record.about()
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as name:
        rows = [measured(Path(name) / f"zero{stage}", args, stage, ranks) for stage, ranks in ENGINES]
    record.finish(args, "A task as the objective: share of slot time", facts, {"rows": rows}, page(rows))


def measured(folder: Path, args: argparse.Namespace, stage: int, ranks: int) -> dict[str, Any]:
    """One sweep, and what its warm trials spent on the task."""
    import ray
    from rich.console import Console

    from sweepft.demo import make_demo
    from sweepft.driver.start import start_sweep
    from sweepft.spec import load

    demo = make_demo(args.demo or folder.parent / "demo").parent
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "demo_skills.yaml").write_text(TASK)
    rows = (demo / "demo-data" / "skills-test.jsonl").read_text()
    (tasks / "skills-test.jsonl").write_text(rows)
    task = {"task": "demo_skills", "metric": "exact_match", "limit": args.items, "batch_size": 20,
            "include_path": str(tasks), "max_share": 1.0}  # fmt: skip
    spec = {
        "name": f"task-zero{stage}",
        "model": {"path": str(demo / "demo-model")},
        "data": {
            "train": [{"path": str(demo / "demo-data" / "skills.jsonl")}],
            "validation": [{"name": "skills", "fraction": 0.03}],
            "max_length": 128,
        },
        "train": {"budget": {"samples": args.samples}, "batch_size": 16, "micro_batch": 16 // ranks,
                  "precision": "fp32", "zero_stage": stage},
        "search": {"trials": args.trials, "sampler": "random",
                   "space": {"learning_rate": {"log_uniform": [1.0e-3, 3.0e-3]}}},
        "objective": {"maximize": task},
        "early_stop": {"rule": "none", "rungs": [0.25, 0.5]},
        "resources": {"workers_per_trial": ranks},
    }  # fmt: skip
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec))
    ray.init(
        address="local", num_cpus=ranks + 1, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        with (folder / "console.txt").open("w") as console:
            found = start_sweep(load(file), folder / "run", console=Console(file=console)).view
    finally:
        ray.shutdown()
    warm = [t for t in found.trials.values() if t.status == "completed"][1:]
    each = [row["task"]["seconds"] for t in warm for row in t.evals]
    whole = [sum(t.costs.values()) for t in warm]
    losses = [row["seconds"] for t in warm for row in t.evals]
    return {
        "zero_stage": stage,
        "ranks": ranks,
        "items": args.items,
        "trials": len(warm),
        "trial_seconds": statistics.median(whole),
        "task_seconds": statistics.median(each),
        "validation_seconds": statistics.median(losses),
        "share": sum(each) / sum(whole),
        "scores": [t.objective for t in warm],
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The figures as a table."""
    heads = [
        "engine",
        "items",
        "warm trials",
        "one trial",
        "one measurement",
        "validation losses",
        "share of slot time",
    ]
    lines = [
        [
            f"ZeRO-{r['zero_stage']}, {r['ranks']} rank{'s' if r['ranks'] > 1 else ''}",
            str(r["items"]),
            str(r["trials"]),
            f"{r['trial_seconds']:.1f} s",
            f"{r['task_seconds']:.2f} s",
            f"{r['validation_seconds']:.2f} s",
            f"{r['share']:.1%}",
        ]
        for r in rows
    ]
    text = (
        "Exact match on the demo's skills, measured at 25%, 50% and the end of every trial (`max_share: 1`), the model "
        "of 0.5 M parameters generating up to 24 tokens an item. The first trial is left out."
    )
    return f"{text}\n\n{record.table(heads, lines)}"


if __name__ == "__main__":
    main()
