"""What two or more trials on one GPU win against one alone: useful tokens a second of the GPU.

    python benchmarks/shared_gpu.py --size 125M --slots 2 [--json FILE] [--md FILE]      on a GPU
    python benchmarks/shared_gpu.py --size 1M --slots 2 --cpu      two slots on one core: a check of the logic

The idea to keep in mind: the steps are those of a sweep (same ranks, engine and batches, Ray left out), timed by the
function behind `sweepft plan --measure`; each round runs both ways, and the rounds' spread says what a gain is worth.
A GPU without CUDA MPS runs kernels of different processes in turns; with it, side by side.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import record
from material import Shape, make, write_spec

SIZES = {
    "1M": Shape(hidden=128, layers=4, heads=4, intermediate=344),
    "30M": Shape(hidden=512, layers=8, heads=8, intermediate=1376, vocab=8192),
    "125M": Shape(hidden=768, layers=12, heads=12, intermediate=2048, vocab=32_000),
    "1B": Shape(hidden=2048, layers=18, heads=32, intermediate=5504, vocab=32_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials that share a GPU; see the module.")
    record.add_options(parser)
    parser.add_argument("--size", choices=SIZES, default="125M")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="share one CPU core instead of a GPU")
    args = parser.parse_args()
    if args.cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # what is started from here inherits it
    facts = record.about() | {"mps": bool(os.environ.get("CUDA_MPS_PIPE_DIRECTORY"))}
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as folder:
        rows = rounds(Path(folder), args)
    record.finish(args, f"{args.slots} trials on one device", facts, {"rounds": rows}, page(rows))


def rounds(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure alone and together, round by round."""
    from sweepft.data import prepare_in_child
    from sweepft.plan.measure import measure
    from sweepft.spec import load

    material = make(folder / "material", SIZES[args.size], rows=max(600, 12 * args.batch))
    resources = {"concurrent_trials": args.slots, "gpus_per_worker": 0 if args.cpu else 1 / args.slots}
    file = write_spec(
        folder / "sweep.yaml",
        material,
        held_out=32,
        windows=(0.5,),
        train={
            "budget": {"samples": 12 * args.batch},
            "micro_batch": {"tokens": 4096},
            "batch_size": args.batch,
            "precision": "fp32" if args.cpu else "bf16",
        },
        search={"trials": 1, "space": {"learning_rate": {"choice": [1e-4]}}},
        resources=resources,
    )
    spec = load(file)
    prepared = prepare_in_child(spec, folder / "cache")
    tokens = prepared.train.tokens / prepared.train.rows * args.batch  # a step, on average
    rows = []
    for number in range(args.rounds):
        together = measure(spec, prepared, args.slots)
        alone = together.alone_step_seconds or measure(spec, prepared, 1).step_seconds
        taken = {"together": together.step_seconds[args.batch], "alone": alone[args.batch]}
        rows.append(
            {
                "round": number + 1,
                "slots": args.slots,
                "alone_tokens_per_second": tokens / taken["alone"],
                "together_tokens_per_second": args.slots * tokens / taken["together"],
                "gain": args.slots * taken["alone"] / taken["together"],
                "peak_gib_a_slot": together.peak_bytes / 2**30,
            }
        )
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """The table."""
    head = ["round", "slots", "alone (tokens/s)", "together (tokens/s)", "times", "GiB a slot"]
    return record.table(head, [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
