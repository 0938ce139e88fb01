"""Useful tokens per CPU-second of training: sweepft packed, against transformers.Trainer and a bare PyTorch loop.

Four ways to train the same model on the same rows, one optimizer step for each BATCH of them: `transformers.Trainer`
with padding and with length grouping, a bare PyTorch loop over packed batches, and sweepft. A useful token is one that
is no padding. Each takes its turn in every round, in a fresh process with the same number of threads.

The idea to keep in mind: CPU time, not wall time, is compared, so that a busy machine disturbs little; and the bare
loop runs the very batches that sweepft runs, so that their ratio is what DeepSpeed and our bookkeeping cost.

    python benchmarks/throughput.py [--rows 512] [--rounds 3] [--data FILE --model FOLDER] [--json FILE] [--md FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record
from material import Shape, make

from sweepft.data import Prepared, TokenSet, prepare_in_child
from sweepft.spec import from_dict

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
WARM_STEPS = 2


def main() -> None:
    args = _arguments()
    facts = record.about()
    with tempfile.TemporaryDirectory() as folder:
        job = _job(args, Path(folder))
        rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        losses: dict[str, float] = {}
        for turn in range(args.rounds):
            for name in CONTESTANTS:
                tokens, seconds, losses[name] = _in_fresh_process(name, job)
                rates[name].append(tokens / seconds)
                print(f"round {turn + 1} {name}: {rates[name][-1]:.0f} useful tokens per CPU-second")
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
        figures[name] = {"tokens_per_cpu_second": values, "sweepft_is_times": ratios, "loss": losses[name]}
    apart = abs(losses["sweepft, packed"] - losses["bare loop, packed"])
    source = args.data.name if args.data else "generated chats"
    text = "\n\n".join(
        [
            f"{job['rows']} rows of {source}, mean {job['mean_length']:.0f} tokens, batch "
            f"{args.batch}; Trainer with {args.micro} rows a forward pass, packed with {args.tokens} tokens; "
            f"{args.threads} thread(s), float32, AdamW. Medians of {args.rounds} rounds; ratios within a round.",
            record.table(["", "useful tokens per CPU-second", "sweepft is ... times as fast"], rows),
            f"The first step's loss of sweepft and of the bare loop: {apart:.1e} apart.",
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
    return parser.parse_args()


def _job(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tokenise once for all; generated rows and a random model where none are given."""
    model, data = args.model, args.data
    if model is None or data is None:
        shape = Shape(hidden=192, layers=4, heads=6, intermediate=512, vocab=512, positions=512)
        made = make(folder, shape, rows=2 * args.rows)
        model, data = made.model, made.data
    spec = from_dict(
        {
            "name": "throughput",
            "model": {"path": str(model)},
            "data": {
                "train": [{"path": str(data), "limit": args.rows}],
                "held_out": [{"name": "own", "fraction": 0.01}],
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
        "batch": args.batch, "micro": args.micro, "tokens": args.tokens, "threads": args.threads,
    }  # fmt: skip


def _in_fresh_process(name: str, job: dict[str, Any]) -> tuple[int, float, float]:
    """Useful tokens, CPU-seconds and the first step's loss; forked from a server that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "transformers", "sweepft.engine.runner"])
    queue = context.Queue()
    process = context.Process(target=_contest, args=(queue, name, job))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{name} ended with exit code {process.exitcode}")
    tokens, seconds, loss = queue.get()
    return tokens, seconds, loss


def _contest(queue: Any, name: str, job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    queue.put(CONTESTANTS[name](job))


def _trainer(strategy: str) -> Callable[[dict[str, Any]], tuple[int, float, float]]:
    def run(job: dict[str, Any]) -> tuple[int, float, float]:
        import torch
        from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
        rows = [_example(row) for row in _rows(job)]
        clock: dict[str, float] = {}

        class Clock(TrainerCallback):  # type: ignore[misc] # transformers ships no types for it
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                clock["begin"] = time.process_time()

            def on_train_end(self, *_: Any, **__: Any) -> None:
                clock["end"] = time.process_time()

        def train(examples: list[dict[str, Any]]) -> float:
            arguments = TrainingArguments(
                output_dir=str(Path(job["folder"]) / "trainer"), use_cpu=True, report_to=[], disable_tqdm=True,
                per_device_train_batch_size=job["micro"], gradient_accumulation_steps=job["batch"] // job["micro"],
                num_train_epochs=1, learning_rate=1e-3, lr_scheduler_type="constant", optim="adamw_torch",
                save_strategy="no", logging_strategy="no", train_sampling_strategy=strategy,
            )  # fmt: skip
            trainer = Trainer(
                model=model, args=arguments, train_dataset=examples, data_collator=_collate(job["pad_id"]),
                callbacks=[Clock()],
            )  # fmt: skip
            return float(trainer.train().training_loss)

        train(rows[: WARM_STEPS * job["batch"]])
        loss = train(rows)
        return sum(len(row["input_ids"]) for row in rows), clock["end"] - clock["begin"], loss

    return run


def _bare(job: dict[str, Any]) -> tuple[int, float, float]:
    """What an engineer writes by hand, given the packed batches: no DeepSpeed, no records."""
    import torch
    from transformers import AutoModelForCausalLM

    from sweepft.engine.batches import Layout
    from sweepft.engine.forward import attend_by_documents, scored_logits

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).train()
    if not attend_by_documents(model):
        raise RuntimeError(f"{job['model']}: this family is not packed")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows, layout = TokenSet(job["cache"]), Layout("packed", job["tokens"], job["pad_id"])
    cpu, order = torch.device("cpu"), _order(job)
    losses: list[float] = []

    def train(indices: Any) -> None:
        for begin in range(0, len(indices), job["batch"]):
            batch = indices[begin : begin + job["batch"]]
            tokens, total = int(rows.targets[batch].sum()), torch.zeros(())
            for micro in layout.cut(rows.lengths[batch], 1)[0]:
                packed = layout.lay_out([rows.row(int(i)) for i in batch[micro.rows]])
                logits = scored_logits(model, packed, cpu)
                targets = torch.from_numpy(packed.targets)
                loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / tokens
                loss.backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(total))

    train(order[: WARM_STEPS * job["batch"]])
    begin = time.process_time()
    train(order)
    return int(rows.lengths[order].sum()), time.process_time() - begin, losses[0]


def _sweepft(compiled: bool, job: dict[str, Any]) -> tuple[int, float, float]:
    from sweepft.engine.collective import join
    from sweepft.engine.plan import EnginePlan, TrialPlan
    from sweepft.engine.runner import TrialRunner

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    device = join(0, 1, "127.0.0.1", port, job["threads"], gpus=0)
    plan = EnginePlan(
        model_path=job["model"], train_cache=job["cache"], budget_samples=job["rows"], micro_batch=job["tokens"],
        packed=True, scratch=str(Path(job["folder"]) / "base"), pad_id=job["pad_id"], threads=job["threads"],
        compiled=compiled,
    )  # fmt: skip
    steps = job["rows"] // job["batch"]
    trial = TrialPlan("bench", job["batch"], learning_rate=1e-3, schedule="constant", planned_steps=steps)
    runner = TrialRunner(plan, device)
    runner.start(trial)
    # What is compiled is compiled before the clock starts: all the shapes are seen once.
    loss = runner.run(job["rows"] if compiled else WARM_STEPS * job["batch"])["history"]["loss"][0]
    runner.start(trial)
    begin = time.process_time()
    runner.run(job["rows"])
    seconds = time.process_time() - begin
    return int(TokenSet(job["cache"]).lengths[_order(job)].sum()), seconds, loss


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

    from sweepft.engine.batches import pad

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        arrays = pad([(e["input_ids"], e["labels"] >= 0) for e in examples], pad_id)
        return dict(
            zip(("input_ids", "attention_mask", "labels"), map(torch.from_numpy, arrays), strict=True)
        )

    return collate


CONTESTANTS: dict[str, Callable[[dict[str, Any]], tuple[int, float, float]]] = {
    "Trainer, padding": _trainer("random"),
    "Trainer, length-grouped": _trainer("group_by_length"),
    "bare loop, packed": _bare,
    "sweepft, packed": partial(_sweepft, False),
    "sweepft, packed, compiled": partial(_sweepft, True),
}


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    main()
