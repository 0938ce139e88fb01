"""Useful tokens per CPU-second of training: sweepft packed, compared with transformers.Trainer and a bare PyTorch loop.

Four ways to train the same model on the same rows, with an optimizer step per BATCH rows: `transformers.Trainer` with
padding and with length grouping, a bare PyTorch loop over packed batches, and sweepft. A useful token is one that is
not padding. Each runs in a separate process with the same number of threads, one after another in every round.

CPU time is compared instead of wall time, to reduce the influence of other load. The bare loop trains on the same
batches as sweepft, so their ratio shows the cost of DeepSpeed and of sweepft's records.

    python benchmarks/throughput.py [--rows 512] [--rounds 3] [--data FILE --model FOLDER] [--json FILE] [--md FILE]
    python benchmarks/throughput.py --gpu --size 125M --rows 4096 --tokens 16384 ...    on a GPU, in bf16, wall time

On a GPU: random weights of the requested size with the tokenizer of ``--model``; bf16 (the Trainer and the bare loop by
autocast, sweepft by DeepSpeed with float32 masters); wall time, on a GPU without other processes.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record
from material import SIZES, Shape, make, random_llama
from turns import Worker

from sweepft.data import Prepared, TokenSet, prepare_in_child
from sweepft.spec import from_dict

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
WARM_STEPS = 2
Result = tuple[int, float, float]
"""Useful tokens, seconds, and loss of the first step (for the Trainer: mean loss)."""
Timed = Callable[[], Result]


def main() -> None:
    args = _arguments()
    facts = record.about()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        job = prepared_job(args, Path(folder))
        workers = {
            name: running.enter_context(Worker(run, job))
            for name, run in (GPU_CONTESTANTS if args.gpu else CONTESTANTS).items()
        }
        for worker in workers.values():
            worker.answer()
        rates: dict[str, list[float]] = {name: [] for name in workers}
        losses: dict[str, float] = {}
        for turn in range(args.rounds):
            for name, worker in workers.items():
                worker.go()
                tokens, seconds, losses[name] = worker.answer()
                rates[name].append(tokens / seconds)
                print(
                    f"round {turn + 1} {name}: {rates[name][-1]:.0f} useful tokens {_unit(args)}", flush=True
                )
    finish(args, facts, job, rates, losses)


def finish(
    args: argparse.Namespace,
    facts: dict[str, Any],
    job: dict[str, Any],
    rates: dict[str, list[float]],
    losses: dict[str, float],
) -> None:
    ours = rates["sweepft, packed"]
    rows, figures = [], {}
    for name, values in rates.items():
        ratios = [mine / other for mine, other in zip(ours, values, strict=True)]
        middle = statistics.median(ratios)
        rows.append(
            [name, statistics.median(values), f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        )
        figures[name] = {
            f"tokens_{_unit(args).replace(' ', '_').replace('-', '_')}": values,
            "sweepft_is_times": ratios,
            "loss": losses[name],
        }
    apart = abs(losses["sweepft, packed"] - losses["bare loop, packed"])
    source = args.data.name if args.data else "generated chats"
    text = "\n\n".join(
        [
            f"{job['rows']} rows of {source}, mean {job['mean_length']:.0f} tokens, batch "
            f"{args.batch}; Trainer with {args.micro} rows per forward pass, packed with {args.tokens} tokens; "
            f"{_where(args)}, AdamW. Medians of {args.rounds} rounds; ratios within a round.",
            record.table(["", f"useful tokens {_unit(args)}", "speed of sweepft, relative"], rows),
            f"Difference between the first-step losses of sweepft and of the bare loop: {apart:.1e}.",
        ]
    )
    record.finish(args, "Throughput", facts, figures, text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training throughput; see the module.")
    record.add_options(parser)
    known = SHARED / "models" / "tiny-llama-t0"
    parser.add_argument("--model", type=Path, default=known if known.exists() else None)
    data = SHARED / "data" / "gsm8k_train.jsonl.gz"
    parser.add_argument("--data", type=Path, default=data if data.exists() else None)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro", type=int, default=16, help="rows of a Trainer's forward pass")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a packed forward pass")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="train on the GPU, in bf16; wall time")
    parser.add_argument("--size", choices=SIZES, default="125M", help="size of the random model, with --gpu")
    return parser.parse_args()


def _unit(args: argparse.Namespace) -> str:
    return "per second" if args.gpu else "per CPU-second"


def _where(args: argparse.Namespace) -> str:
    return f"{args.size} parameters, bf16" if args.gpu else f"{args.threads} thread(s), float32"


def prepared_job(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tokenise the rows: model, token set and sizes. Uses generated rows and a random model unless both are given."""
    model, data = args.model, args.data
    if model is None or data is None:
        shape = Shape(hidden=192, layers=4, heads=6, intermediate=512, vocab=512, positions=512)
        made = make(folder, shape, rows=2 * args.rows)
        model, data = made.model, made.data
    if args.gpu:
        model = _of_size(args.size, model, folder / "sized")
    spec = from_dict(
        {
            "name": "throughput",
            "model": {"path": str(model)},
            "data": {
                "train": [{"path": str(data), "limit": args.rows}],
                "validation": [{"name": "own", "fraction": 0.01}],
                "max_length": 512,
            },
            "train": {
                "budget": {"epochs": 1.0},
                "micro_batch": {"tokens": args.tokens},
                "batch_size": args.batch,
            },
            "search": {"trials": 1, "space": {"learning_rate": {"choice": [1e-3]}}},
        }
    )
    prepared: Prepared = prepare_in_child(spec, folder / "cache")
    rows = TokenSet(prepared.train.path)
    return {
        "model": str(model), "cache": prepared.train.path, "pad_id": prepared.pad_id, "folder": str(folder),
        "rows": len(rows) // args.batch * args.batch, "mean_length": float(np.mean(rows.lengths)),
        "batch": args.batch, "micro": args.micro, "tokens": args.tokens, "threads": args.threads, "gpu": args.gpu,
    }  # fmt: skip


def _of_size(size: str, model: Path, folder: Path) -> Path:
    """Save random weights of a size with the tokenizer of a model."""
    import torch
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(model)
    made = random_llama(replace(SIZES[size], vocab=max(len(words), SIZES[size].vocab), positions=1024))
    made.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _begin(job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)


def _warm_rows(job: dict[str, Any]) -> int:
    """Rows trained before timing; on a GPU all of them, since its allocator adapts to every new shape."""
    return int(job["rows"]) if job["gpu"] else WARM_STEPS * int(job["batch"])


def _now(job: dict[str, Any]) -> float:
    """CPU seconds; on a GPU wall seconds after synchronisation."""
    if not job["gpu"]:
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def _trainer(strategy: str, job: dict[str, Any]) -> Timed:
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    _begin(job)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    rows = [_example(row) for row in _rows(job)]
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc] # transformers ships no types for it
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock["begin"] = _now(job)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock["end"] = _now(job)

    def train(examples: list[dict[str, Any]]) -> float:
        arguments = TrainingArguments(
            output_dir=str(Path(job["folder"]) / "trainer"), use_cpu=not job["gpu"], bf16=job["gpu"],
            report_to=[], disable_tqdm=True,
            per_device_train_batch_size=job["micro"], gradient_accumulation_steps=job["batch"] // job["micro"],
            num_train_epochs=1, learning_rate=1e-3, lr_scheduler_type="constant",
            optim="adamw_torch_fused" if job["gpu"] else "adamw_torch",
            save_strategy="no", logging_strategy="no", train_sampling_strategy=strategy,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=examples, data_collator=_collate(job["pad_id"]),
            callbacks=[Clock()],
        )  # fmt: skip
        return float(trainer.train().training_loss)

    def timed() -> Result:
        loss = train(rows)
        return sum(len(row["input_ids"]) for row in rows), clock["end"] - clock["begin"], loss

    train(rows[: _warm_rows(job)])
    return timed


def _bare(job: dict[str, Any]) -> Timed:
    """A hand-written loop over the packed batches: no DeepSpeed, no records."""
    import torch
    from transformers import AutoModelForCausalLM

    from sweepft.training.batching import Layout
    from sweepft.training.forward import attend_by_documents, scored_logits

    _begin(job)
    device = torch.device("cuda" if job["gpu"] else "cpu")
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).train().to(device)
    if not attend_by_documents(model):
        raise RuntimeError(f"{job['model']}: this family is not packed")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=job["gpu"])
    rows, layout = TokenSet(job["cache"]), Layout("packed", job["tokens"], job["pad_id"])
    order = _order(job)
    losses: list[float] = []

    def train(indices: Any) -> None:
        for begin in range(0, len(indices), job["batch"]):
            batch = indices[begin : begin + job["batch"]]
            tokens, total = int(rows.targets[batch].sum()), torch.zeros((), device=device)
            for micro in layout.split_micro_batches(rows.lengths[batch], 1)[0]:
                packed = layout.collate([rows.row(int(i)) for i in batch[micro.rows]])
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=job["gpu"]):
                    logits = scored_logits(model, packed, device)
                targets = torch.from_numpy(packed.targets).to(device)
                loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum") / tokens
                loss.backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(total))

    def timed() -> Result:
        begin = _now(job)
        train(order)
        return int(rows.lengths[order].sum()), _now(job) - begin, losses[0]

    train(order[: _warm_rows(job)])
    return timed


def packed_trials(
    job: dict[str, Any], *, packed: bool = True, compiled: bool = False, gpus: float = 1.0
) -> Timed:
    """sweepft's engine: the same trial over all rows, repeatedly."""
    from sweepft.spec import Budget, TrainConfig
    from sweepft.training.config import EngineConfig
    from sweepft.training.distributed import join
    from sweepft.training.trainer import TrialRunner

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    _begin(job)
    device = join(0, 1, "127.0.0.1", port, job["threads"], gpus if job["gpu"] else 0)
    config = EngineConfig(
        model_path=job["model"], train_cache=job["cache"], budget_samples=job["rows"],
        micro_batch=job["tokens"] if packed else job["micro"], packed=packed,
        scratch=str(Path(job["folder"]) / "base"), pad_id=job["pad_id"], threads=job["threads"],
        compiled=compiled, precision="bf16" if job["gpu"] else "fp32",
    )  # fmt: skip
    train_config = TrainConfig(
        budget=Budget(samples=job["rows"]), budget_samples=job["rows"], batch_size=job["batch"], learning_rate=1e-3,
        micro_batch=job["micro"],
    )  # fmt: skip
    runner = TrialRunner(config, device)
    tokens = int(TokenSet(job["cache"]).lengths[_order(job)].sum())
    runner.start(train_config)
    # Compilation happens before timing: one pass over all shapes.
    loss = runner.run(job["rows"] if compiled else _warm_rows(job))["history"]["loss"][0]

    def timed() -> Result:
        runner.start(train_config)
        begin = _now(job)
        runner.run(job["rows"])
        return tokens, _now(job) - begin, loss

    return timed


def _order(job: dict[str, Any]) -> Any:
    from sweepft.data import SampleOrder

    rows = TokenSet(job["cache"])
    return SampleOrder(len(rows), 0, rows.digest).indices(0, job["rows"])


def _rows(job: dict[str, Any]) -> list[Any]:
    rows = TokenSet(job["cache"])
    return [rows.row(int(i)) for i in _order(job)]


def _example(row: Any) -> dict[str, Any]:
    ids, mask = row
    return {"input_ids": ids, "labels": np.where(mask, ids, -100)}


def _collate(pad_id: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    import torch

    from sweepft.training.batching import pad

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        arrays = pad([(e["input_ids"], e["labels"] >= 0) for e in examples], pad_id)
        return dict(
            zip(("input_ids", "attention_mask", "labels"), map(torch.from_numpy, arrays), strict=True)
        )

    return collate


def _by_document(job: dict[str, Any]) -> Timed:
    """Without the varlen kernel: attention to one document after another."""
    from sweepft.training import attention

    attention._varlen_is_complete = lambda: False
    return packed_trials(job)


CONTESTANTS: dict[str, Callable[[dict[str, Any]], Timed]] = {
    "Trainer, padding": partial(_trainer, "random"),
    "Trainer, length-grouped": partial(_trainer, "group_by_length"),
    "bare loop, packed": _bare,
    "sweepft, packed": packed_trials,
    "sweepft, packed, compiled": partial(packed_trials, compiled=True),
}
GPU_CONTESTANTS = {name: run for name, run in CONTESTANTS.items() if name != "sweepft, packed, compiled"} | {
    "sweepft, packed, SDPA by document": _by_document,
    "sweepft, padded": partial(packed_trials, packed=False),
}


if __name__ == "__main__":
    if "--gpu" not in sys.argv:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    main()
