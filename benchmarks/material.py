"""What the benchmarks train on: a Llama of a given size with random weights, and generated chat rows.

Both are made in a child process (``python benchmarks/material.py FOLDER ...``), so that the measured driver does not
load torch, as in real use.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["SIZES", "Material", "Shape", "make", "random_llama", "write_spec"]


@dataclass(frozen=True)
class Shape:
    """Size of a Llama; its heads have at most 64 dimensions."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int = 512
    positions: int = 256


SIZES = {
    "1M": Shape(hidden=128, layers=4, heads=4, intermediate=344),
    "30M": Shape(hidden=512, layers=8, heads=8, intermediate=1376, vocab=8192),
    "125M": Shape(hidden=768, layers=12, heads=12, intermediate=2048, vocab=32_000),
    "1B": Shape(hidden=2048, layers=18, heads=32, intermediate=5504, vocab=32_000),
}
"""Shapes by approximate number of parameters."""


@dataclass(frozen=True)
class Material:
    """A model folder (with tokenizer) and a file of chat rows."""

    model: Path
    data: Path


def make(folder: Path, shape: Shape, rows: int, seed: int = 0) -> Material:
    """Make a random model and ``rows`` generated chat rows in a child process."""
    options = [f"--{name}={value}" for name, value in vars(shape).items()]
    command = [sys.executable, __file__, str(folder), *options, f"--rows={rows}", f"--seed={seed}"]
    subprocess.run(command, check=True, capture_output=True)
    return Material(folder / "model", folder / "data.jsonl")


def random_llama(shape: Shape, seed: int = 0) -> Any:
    """A Llama with random float32 weights. Imports torch."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=3,
        eos_token_id=3,
    )
    return AutoModelForCausalLM.from_config(config)


def write_spec(
    file: Path,
    material: Material,
    *,
    validation: int,
    train: Mapping[str, Any],
    search: Mapping[str, Any],
    resources: Mapping[str, Any],
    rungs: tuple[float, ...],
) -> Path:
    """Write a sweep without early stopping over this material; ``validation`` rows are evaluated at each rung."""
    sections = {
        "name": file.stem,
        "model": {"path": str(material.model)},
        "data": {
            "train": [{"path": str(material.data)}],
            "validation": [{"name": "own", "fraction": 0.2, "limit": validation}],
            "max_length": 256,
        },
        "train": {"precision": "fp32", "zero_stage": 2} | dict(train),
        "search": dict(search),
        "early_stop": {"rule": "none", "rungs": list(rungs)},
        "resources": dict(resources),
    }
    file.write_text(yaml.safe_dump(sections))
    return file


def _main() -> None:
    from sweepft.demo.pretrain import train_tokenizer
    from sweepft.demo.skills import NEW_SKILLS, skill_rows

    parser = argparse.ArgumentParser(description="Make a model and data; see the module.")
    parser.add_argument("folder", type=Path)
    for name in Shape.__dataclass_fields__:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = Shape(**{name: getattr(args, name) for name in Shape.__dataclass_fields__})
    rows = list(skill_rows(NEW_SKILLS, args.rows, args.seed))
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    random_llama(shape, args.seed).save_pretrained(args.folder / "model")
    train_tokenizer(rows[:500], shape.vocab).save_pretrained(args.folder / "model")


if __name__ == "__main__":
    _main()
