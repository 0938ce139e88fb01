"""Memory of a node's ranks under adapters: whether the frozen base model is held once, or once per rank.

    python benchmarks/shared_base.py [--slots 2] [--json FILE] [--md FILE]

Slots of one or two ranks each train a LoRA step on a Llama of 110M parameters with random weights, then a step with an
adapter of another rank; each with the base mapped from one file (as in a sweep) and with that turned off. The
proportional set size (PSS) divides a page by the number of processes that share it, so it can be summed over processes;
private memory is the cost of one more rank. Each line is the mean over all ranks, while all of them are alive and idle.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import record
from material import Shape, random_llama

SHAPE = Shape(hidden=768, layers=12, heads=12, intermediate=2048, vocab=32_000)
LINES = ((2, "fp32", 1), (2, "bf16", 1), (2, "bf16", 2), (3, "bf16", 2))
HELD = ("Rss", "Pss", "Private_Clean", "Private_Dirty")


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of ranks under adapters; see the module.")
    record.add_options(parser)
    parser.add_argument("--slots", type=int, default=2)
    args = parser.parse_args()
    facts, rows = record.about(), []
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as folder:
        context = multiprocessing.get_context("spawn")
        maker = context.Process(
            target=_make, args=(folder,)
        )  # a child process, so that this one does not load torch
        maker.start()
        maker.join()
        for (stage, precision, ranks), shared in product(LINES, (True, False)):
            line = {"zero_stage": stage, "precision": precision, "ranks": ranks, "shared": shared}
            rows.append(line | measure(context, Path(folder), args.slots, line))
            print(rows[-1], flush=True)
    record.finish(
        args, "The base model under adapters", facts, {"slots": args.slots, "rows": rows}, page(rows)
    )


def measure(context: Any, folder: Path, slots: int, line: dict[str, Any]) -> dict[str, Any]:
    """Mean memory of a rank (MiB) after a step, and after a step with another adapter."""
    barrier = context.Barrier(slots * line["ranks"])
    queue = context.Queue()
    processes = []
    for slot in range(slots):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        for rank in range(line["ranks"]):
            job = (queue, barrier, folder, line, rank, port)
            processes.append(context.Process(target=_rank, args=job, name=f"slot {slot}"))
    for process in processes:
        process.start()
    found = [queue.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    when = ("first", "other adapter")
    return {
        name: {held: float(np.mean([one[i][held] for one in found])) for held in found[0][i]}
        for i, name in enumerate(when)
    }


def _make(folder: str) -> None:
    random_llama(SHAPE).save_pretrained(Path(folder) / "model")


def _rank(queue: Any, barrier: Any, folder: Path, line: dict[str, Any], rank: int, port: int) -> None:
    import torch

    from sweepft.spec import Budget, Lora, TrainConfig
    from sweepft.training import deepspeed_engine as engine
    from sweepft.training.batching import Layout
    from sweepft.training.config import EngineConfig
    from sweepft.training.distributed import join
    from sweepft.training.forward import token_losses

    if not line["shared"]:
        engine.share_frozen = lambda *_, **__: None  # type: ignore[attr-defined]
    device = join(rank, line["ranks"], "127.0.0.1", port, 1, gpus=0)
    name = f"base-{line['zero_stage']}-{line['precision']}-{line['ranks']}"
    config = EngineConfig(
        model_path=str(folder / "model"), train_cache="", budget_samples=2, micro_batch=1, scratch=str(folder / name),
        zero_stage=line["zero_stage"], precision=line["precision"],
    )  # fmt: skip
    train_config = TrainConfig(
        budget=Budget(samples=2), budget_samples=2, batch_size=1, learning_rate=1e-3, micro_batch=1
    )
    ids = torch.randint(4, SHAPE.vocab, (64,), generator=torch.Generator().manual_seed(0)).numpy()
    batch = Layout("rows", 1, 0).collate([(ids, np.ones(64, dtype=bool))])
    zero = engine.ZeroEngine(config, device)
    found = []
    for adapter in (8, 4):
        zero.start(train_config.model_copy(update={"lora": Lora(rank=adapter, alpha=16.0)}))
        zero.backward(token_losses(zero.logits(batch), batch).mean(), last=True)
        zero.step(1e-3)
        barrier.wait()
        found.append(_held())
        barrier.wait()
    queue.put(found)


def _held() -> dict[str, float]:
    """Memory of this process in MiB."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    sizes = {fields[0].rstrip(":"): int(fields[1]) / 1024 for fields in lines}
    return {name: sizes[name] for name in HELD}


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    header = [
        "ZeRO", "precision", "ranks per slot", "base", "resident (MiB per rank)", "PSS", "private",
        "PSS after another adapter", "private",
    ]  # fmt: skip
    lines = []
    for r in rows:
        cells: list[object] = [
            r["zero_stage"], r["precision"], r["ranks"], "one mapped file" if r["shared"] else "as loaded",
            r["first"]["Rss"],
        ]  # fmt: skip
        for when in (r["first"], r["other adapter"]):
            cells += [when["Pss"], when["Private_Clean"] + when["Private_Dirty"]]
        lines.append(cells)
    return record.table(header, lines)


if __name__ == "__main__":
    main()
