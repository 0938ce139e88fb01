"""Seconds of a finalist's generation task at ZeRO-3 on two CPU ranks: ``python benchmarks/exam_zero3.py``.

The same weights and items, step by step from how it was to how it is:

- *sharded*: every rank runs all items and gathers each layer for each token, in batches of 8, with DeepSpeed's own
  linear layers (before);
- *gathered*: each rank holds all weights and still runs all items, with torch's linear layers, as in what follows;
- *shared*: the ranks share the items;
- *auto*: batches as large as fit (``evaluate.batch_size: auto``), as sweepft does it where the weights fit a rank;
- *sharded, auto*: the same where they do not fit.

Scores and answers must be equal, item by item.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import record
import yaml
from gpu_ranks import Figures, Place, on_ranks

WAYS = {
    # whether weights are gathered, whether every rank runs all items, items per batch
    "sharded": (False, True, 8),
    "gathered": (True, True, 8),
    "shared": (True, False, 8),
    "auto": (True, False, None),
    "sharded, auto": (False, True, None),
}


def exams(runner: Any, folder: Path, items: int, rounds: int) -> Figures:
    """Seconds of each way, of which the gathering, in the fastest round, and samples; before, two items each way."""
    from sweepft.evaluation import EvalTask
    from sweepft.evaluation.harness import score
    from sweepft.training.inference import gathered_weights, plain_model

    runner.start(train_config(runner.config))
    runner.run(runner.config.budget_samples)
    tokenizer = str(folder / "model")
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for limit in (2, *[items] * rounds):
        for way, (gather, sharded, batch_size) in WAYS.items():
            task = EvalTask("answers", (str(folder / "tasks"),), limit=limit, batch_size=batch_size)
            begin = time.perf_counter()
            held = gathered_weights(runner.zero) if gather else contextlib.nullcontext(False)
            with held as whole, plain_model(runner.zero) as model, linear_layers(way):
                if whole != gather:
                    raise RuntimeError("the weights do not fit")
                ready = time.perf_counter()
                scores = score(model, tokenizer, task, sharded=sharded)
            seconds = time.perf_counter() - begin
            found[way].append({"seconds": seconds, "gathering": ready - begin, "scores": scores})
    return {way: min(figures[1:], key=lambda one: one["seconds"]) for way, figures in found.items()}


@contextlib.contextmanager
def linear_layers(way: str) -> Iterator[None]:
    """With DeepSpeed's linear layers for the way it was before."""
    from deepspeed.runtime.zero.linear import zero3_linear_wrap
    from torch.nn import functional

    own = functional.linear
    functional.linear = zero3_linear_wrap if way == "sharded" else own
    try:
        yield
    finally:
        functional.linear = own


def train_config(config: Any) -> Any:
    from sweepft.spec import TrainConfig

    return TrainConfig.model_validate(
        {
            "batch_size": config.largest_batch, "learning_rate": 1e-3, "budget": {"samples": config.budget_samples},
            "budget_samples": config.budget_samples, "micro_batch": config.micro_batch, "precision": config.precision,
            "zero_stage": 3,
        }
    )  # fmt: skip


def material(folder: Path, hidden: int, layers: int, items: int, tokens: int) -> Any:
    """A random Llama with its tokenizer, rows to train on, and a generation task."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from sweepft.data.cache import write_token_set
    from sweepft.demo.twin import twin_tokenizer
    from sweepft.training.config import EngineConfig

    tokenizer = twin_tokenizer(384)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=3 * hidden, vocab_size=len(tokenizer), max_position_embeddings=512,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=3, eos_token_id=3,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    draw = np.random.default_rng(0)
    rows = [(draw.integers(4, 384, 24), np.arange(24) > 6, "any") for _ in range(16)]
    write_token_set(folder / "rows", rows, digest="1" * 64, vocab_size=384)
    tasks = folder / "tasks"
    tasks.mkdir()
    words = [[chr(97 + n) * 3 for n in draw.integers(0, 26, 4 + i % 9)] for i in range(items)]
    (tasks / "answers.jsonl").write_text(
        "".join(json.dumps({"question": " ".join(line), "answer": line[0]}) + "\n" for line in words)
    )
    task = {
        "task": "answers", "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "answers.jsonl")}},
        "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["<never>"], "max_gen_toks": tokens, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }  # fmt: skip
    (tasks / "answers.yaml").write_text(yaml.safe_dump(task))
    return EngineConfig(
        model_path=str(folder / "model"), train_cache=str(folder / "rows"), budget_samples=8, micro_batch=2,
        largest_batch=4, longest=24, scratch=str(folder / "base"), zero_stage=3, end_ids=(3,),
        vocab_size=len(tokenizer),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("hidden", 256), ("layers", 8), ("items", 64), ("tokens", 64), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    record.add_options(parser)
    args = parser.parse_args()
    facts = record.about()
    with tempfile.TemporaryDirectory(prefix="sweepft-exam-") as name:
        folder = Path(name)
        config = material(folder, args.hidden, args.layers, args.items, args.tokens)
        found = on_ranks(
            Place("cpu", 0, folder), config, partial(exams, items=args.items, rounds=args.rounds)
        )
    samples = [one.pop("scores") for one in found.values()]
    equal = all(one == samples[0] for one in samples)
    before = found["sharded"]["seconds"]
    rows = [
        (way, f"{one['seconds']:.2f}", f"{one['gathering']:.2f}", f"{before / one['seconds']:.1f}")
        for way, one in found.items()
    ]
    figures = found | {"times_as_fast": round(before / found["auto"]["seconds"], 1), "equal": equal}
    size = f"{args.layers} layers of width {args.hidden}, {args.items} items with answers of {args.tokens} tokens"
    text = f"{size}, two ranks; the fastest of {args.rounds} rounds\n\n"
    text += record.table(("way", "seconds", "of them gathering", "times as fast"), rows)
    text += f"\n\nscores and answers are equal: {equal}"
    record.finish(args, "An exam at ZeRO-3 on two CPU ranks", facts, figures, text)
    if not equal:
        sys.exit("answers or metrics differ")


if __name__ == "__main__":
    main()
