"""Gain from several trials on one GPU: useful tokens per second of the GPU, compared with a single trial.

    python benchmarks/shared_gpu.py --size 125M --slots 4 [--json FILE] [--md FILE]      on a GPU
    python benchmarks/shared_gpu.py --size 1M --slots 2 --cpu      two slots on one core: a check of the logic

The slots' engines (those of a sweep, without Ray) are built once. In each round one of them trains, then two at the
same time, then four, and so on; the spread between rounds shows the noise of a gain. Without CUDA MPS, a GPU runs
kernels of different processes in turns; with it, concurrently.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import record
from material import SIZES
from throughput import SHARED, packed_trials, prepared_job
from turns import Worker


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials that share a GPU; see the module.")
    record.add_options(parser)
    known = SHARED / "models" / "tiny-llama-t0"
    parser.add_argument(
        "--model", type=Path, default=known if known.exists() else None, help="model whose tokenizer is used"
    )
    data = SHARED / "data" / "gsm8k_train.jsonl.gz"
    parser.add_argument("--data", type=Path, default=data if data.exists() else None)
    parser.add_argument("--size", choices=SIZES, default="125M")
    parser.add_argument("--slots", type=int, default=2, help="largest number of slots")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=512, help="rows per trial")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of a packed forward pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="share one CPU core instead of a GPU")
    args = parser.parse_args()
    args.gpu, args.threads, args.micro = not args.cpu, 1, 16
    if args.cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # child processes inherit it
    facts = record.about() | {"mps": bool(os.environ.get("CUDA_MPS_PIPE_DIRECTORY"))}
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as folder, ExitStack() as running:
        job = prepared_job(args, Path(folder))
        prepare = partial(packed_trials, gpus=1 / args.slots)
        slots = [running.enter_context(Worker(prepare, job)) for _ in range(args.slots)]
        for slot in slots:
            slot.answer()
        rows = [row for turn in range(args.rounds) for row in _round(turn + 1, slots)]
    text = "\n\n".join(
        [
            f"{args.size} parameters, {'float32 on one core' if args.cpu else 'bf16'}, {job['rows']} rows of "
            f"{args.data.name if args.data else 'generated chats'} per trial, mean {job['mean_length']:.0f} tokens, "
            f"batch {args.batch}, packed with {args.tokens} tokens. Useful tokens per second of all slots together.",
            page(rows),
        ]
    )
    record.finish(args, f"Up to {args.slots} trials on one device", facts, {"rounds": rows}, text)


def _round(number: int, slots: list[Worker]) -> list[dict[str, Any]]:
    """Run one slot, then twice as many, and so on up to all."""
    counts = [n for n in (1, 2, 4, 8, 16) if n < len(slots)] + [len(slots)]
    rows: list[dict[str, Any]] = []
    for count in counts:
        begin = time.perf_counter()
        for slot in slots[:count]:
            slot.go()
        tokens = sum(slot.answer()[0] for slot in slots[:count])
        rate = tokens / (time.perf_counter() - begin)
        alone = rows[0]["tokens_per_second"] if rows else rate
        rows.append({"round": number, "slots": count, "tokens_per_second": rate, "times": rate / alone})
        print(rows[-1], flush=True)
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    head = ["round", "slots", "useful tokens/s", "relative to one slot"]
    return record.table(head, [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
