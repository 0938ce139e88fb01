"""Time of a warm reset by model size, compared with bare memory copies of the same bytes.

    python benchmarks/reset_scaling.py [--json FILE] [--md FILE] [--sizes 1M,30M,125M,350M] [--repeat 5]

A reset copies the base weights back and zeroes the optimizer's state. Nothing else in it grows with the model, so it
should run at memory bandwidth. ``bare`` is the time of plain ``copy_`` and ``zero_`` calls over tensors of the same
sizes in the same process; ``share`` is bare over reset. Each line is measured in a separate process with one rank and
one thread. The first loss and gradient norm after a reset must equal those of a new engine bit for bit. Times are the
best of ``--repeat``, which reduces the influence of other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
from material import Shape, random_llama

SIZES = {
    "1M": Shape(hidden=128, layers=4, heads=4, intermediate=344),
    "30M": Shape(hidden=512, layers=8, heads=8, intermediate=1376, vocab=8192),
    "125M": Shape(hidden=768, layers=12, heads=12, intermediate=2048, vocab=50_000),
    "350M": Shape(hidden=1024, layers=24, heads=16, intermediate=2736, vocab=32_000),
}
SETTINGS = ((2, "fp32"), (3, "fp32"))
BF16_AT = "125M"
BYTES = {"fp32": 4, "bf16": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description="Reset time against model size; see the module.")
    record.add_options(parser)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--one", nargs=4, metavar=("SIZE", "STAGE", "PRECISION", "FOLDER"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.one:
        size, stage, precision, folder = args.one
        print(json.dumps(measure(SIZES[size], int(stage), precision, Path(folder), args.repeat)))
        return
    facts = record.about()
    rows = []
    for size in args.sizes.split(","):
        with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as folder:
            for stage, precision in [*SETTINGS, *([(2, "bf16")] if size == BF16_AT else [])]:
                rows.append({"size": size, **in_child(size, stage, precision, folder, args.repeat)})
                print(json.dumps(rows[-1]), flush=True)
    record.finish(
        args, "Warm reset against model size", facts, {"rows": rows, "paper_7b": paper()}, page(rows)
    )


def in_child(size: str, stage: int, precision: str, folder: str, repeat: int) -> dict[str, Any]:
    """Measure one line of the table in a new process."""
    command = [
        sys.executable,
        __file__,
        "--repeat",
        str(repeat),
        "--one",
        size,
        str(stage),
        precision,
        folder,
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path},
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(shape: Shape, stage: int, precision: str, folder: Path, repeat: int) -> dict[str, Any]:
    """Build an engine, then repeatedly train a step and reset it."""
    import torch

    from sweepft.spec import Budget, TrainConfig
    from sweepft.training.batching import Layout
    from sweepft.training.config import EngineConfig
    from sweepft.training.deepspeed_engine import ZeroEngine
    from sweepft.training.distributed import join
    from sweepft.training.forward import token_losses

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    device = join(0, 1, "127.0.0.1", port, 1, gpus=0)
    model = folder / "model"
    if not model.exists():
        random_llama(shape).save_pretrained(model)
    config = EngineConfig(
        model_path=str(model), train_cache="", budget_samples=2, micro_batch=1, scratch=str(folder / "base"),
        zero_stage=stage, precision=precision,
    )  # fmt: skip
    train_config = TrainConfig(
        budget=Budget(samples=2), budget_samples=2, batch_size=1, learning_rate=1e-3, micro_batch=1
    )
    ids = torch.randint(4, shape.vocab, (8,), generator=torch.Generator().manual_seed(0)).numpy()
    batch = Layout("rows", 1, 0).collate([(ids, np.ones(8, dtype=bool))])

    def step() -> tuple[str, str]:
        loss = token_losses(zero.logits(batch), batch).mean()
        zero.backward(loss, last=True)
        return float(loss).hex(), zero.step(1e-3).hex()

    zero = ZeroEngine(config, device)
    cold = seconds(lambda: zero.start(train_config))
    first = step()
    resets, equal = [], True
    for _ in range(repeat):
        resets.append(seconds(lambda: zero.start(train_config)))
        equal &= step() == first
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in zero.module.parameters())
    zero.close()
    bare, moved = bare_seconds(parameters, precision, repeat)
    reset = min(resets)
    return {
        "parameters": parameters, "zero_stage": stage, "precision": precision, "reset_seconds": reset,
        "resets": resets, "build_seconds": cold, "bytes": moved, "gb_per_second": moved / reset / 1e9,
        "bare_seconds": bare, "bare_gb_per_second": moved / bare / 1e9, "share_of_bandwidth": bare / reset,
        "equal_to_fresh": equal,
    }  # fmt: skip


def bare_seconds(n: int, precision: str, repeat: int) -> tuple[float, int]:
    """Lower bound of a reset (copy weights and masters, zero two moments): its seconds, and the bytes read and written.

    Per parameter: a read of the base and a write of the weight, a read and a write of the float32 master, and a write
    of each of Adam's two float32 moments.
    """
    import torch

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    base, live = torch.ones(n, dtype=dtype), torch.ones(n, dtype=dtype)
    master, moments = torch.ones(n), (torch.ones(n), torch.ones(n))

    def bare() -> None:
        live.copy_(base)
        master.copy_(base)
        for moment in moments:
            moment.zero_()

    width = BYTES[precision]
    return min(seconds(bare) for _ in range(4 * repeat)), n * (2 * width + (width + 4) + 8)


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def paper(parameters: float = 7e9, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Estimated seconds of a reset of 7B parameters in bf16 on 8 GPUs, from assumed bandwidths. Not measured.

    Assumed: 20 GB/s from the page cache to a GPU (PCIe 4.0 x16 has 32 GB/s a direction by specification, and mapped
    pages are not pinned; the 20 is a guess), 160 GB/s out of host memory for all GPUs of a node together (8 x 20, a
    guess), and 2,000 GB/s of GPU memory (A100 80 GB: 1,935 or 2,039 by specification). Not included:
    converting the masters from bf16 to float32 on the CPU.
    """
    link, hbm = 20e9, 2.0e12
    share = parameters / gpus
    out = {}
    for stage in (2, 3):
        live = 2 * (parameters if stage == 2 else share)
        out[f"zero{stage}"] = {
            "bytes_over_pcie_as_written": live + 4 * share,
            "seconds_as_written": (live + 4 * share) / link + (live + 12 * share) / hbm,
            "bytes_over_pcie_masters_from_live": live,
            "seconds_masters_from_live": live / link + (live + 14 * share) / hbm,
        }
    return out


def page(rows: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    header = [
        "model", "parameters (M)", "ZeRO", "precision", "reset (ms)", "new engine (ms)", "MB read and written",
        "GB/s", "bare copies (GB/s)", "share", "equal to fresh",
    ]  # fmt: skip
    lines = [
        [
            r["size"], r["parameters"] / 1e6, r["zero_stage"], r["precision"], 1e3 * r["reset_seconds"],
            1e3 * r["build_seconds"], r["bytes"] / 1e6, r["gb_per_second"], r["bare_gb_per_second"],
            f"{r['share_of_bandwidth']:.0%}", r["equal_to_fresh"],
        ]
        for r in rows
    ]  # fmt: skip
    paper_rows = [
        [
            name.replace("zero", "ZeRO-"), f["bytes_over_pcie_as_written"] / 1e9, f["seconds_as_written"],
            f["bytes_over_pcie_masters_from_live"] / 1e9, f["seconds_masters_from_live"],
        ]
        for name, f in paper().items()
    ]  # fmt: skip
    paper_header = [
        "7B, bf16, 8 GPUs",
        "GB per GPU over PCIe",
        "seconds",
        "GB, masters from GPU weights",
        "seconds",
    ]
    return (
        record.table(header, lines)
        + "\n\nEstimated, not measured (assumptions: `paper` in `benchmarks/reset_scaling.py`):\n\n"
        + record.table(paper_header, paper_rows)
    )


if __name__ == "__main__":
    main()
