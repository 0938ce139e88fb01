"""Seconds of a finalist's generation task at ZeRO-3 on two CPU ranks: ``python benchmarks/exam_zero3.py``.

Three ways on the same weights and items: *sharded*, as where the weights do not fit a rank (every rank runs all items
and gathers each layer for each token); *gathered*, each rank holds all weights and still runs all items; *shared*, as
sweepft does it: gathered once, and the ranks share the items. Answers and metrics must be equal, item by item.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import record
import yaml
from gpu_ranks import Figures, Place, on_ranks


def exams(runner: Any, folder: Path, items: int, tokens: int, batch_size: int) -> Figures:
    """Seconds and samples of the three ways, after one item has been answered each way."""
    from sweepft.evaluation import EvalTask
    from sweepft.evaluation.harness import score
    from sweepft.training.inference import gathered_weights, plain_model

    runner.start(train_config(runner.config))
    runner.run(runner.config.budget_samples)
    tokenizer = str(folder / "model")
    found: Figures = {}
    for limit in (2, items):
        task = EvalTask("answers", (str(folder / "tasks"),), limit=limit, batch_size=batch_size)
        for way in ("sharded", "gathered", "shared"):
            begin = time.perf_counter()
            if way == "sharded":
                with plain_model(runner.zero) as model:
                    scores = score(model, tokenizer, task, sharded=True)
            else:
                with gathered_weights(runner.zero) as whole, plain_model(runner.zero) as model:
                    if not whole:
                        raise RuntimeError("the weights do not fit")
                    scores = score(model, tokenizer, task, sharded=way == "gathered")
            found[way] = {"seconds": round(time.perf_counter() - begin, 3), "scores": scores}
    return found


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
    for name, default in (("hidden", 512), ("layers", 4), ("items", 16), ("tokens", 32), ("batch-size", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    record.add_options(parser)
    args = parser.parse_args()
    facts = record.about()
    with tempfile.TemporaryDirectory(prefix="sweepft-exam-") as name:
        folder = Path(name)
        config = material(folder, args.hidden, args.layers, args.items, args.tokens)
        job = partial(exams, items=args.items, tokens=args.tokens, batch_size=args.batch_size)
        found = on_ranks(Place("cpu", 0, folder), config, job)
    samples = {way: one.pop("scores") for way, one in found.items()}
    equal = samples["sharded"] == samples["gathered"] == samples["shared"]
    figures = {way: one["seconds"] for way, one in found.items()}
    figures |= {"times_as_fast": round(figures["sharded"] / figures["shared"], 1), "equal": equal}
    parameters = f"{args.layers} layers of width {args.hidden}, {args.items} items of {args.tokens} tokens"
    text = f"{parameters}, batch size {args.batch_size}, two ranks\n\n"
    text += record.table(("way", "seconds"), [(way, figures[way]) for way in found])
    text += f"\n\nshared is {figures['times_as_fast']} times as fast as sharded; scores and answers equal: {equal}"
    record.finish(args, "An exam at ZeRO-3 on two CPU ranks", facts, figures, text)
    if not equal:
        sys.exit("answers or metrics differ")


if __name__ == "__main__":
    main()
