"""Tiny generated models and data for tests: seeded, and written as real files (``save_pretrained``, JSON Lines)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from sweepft.demo.skills import NEW_SKILLS, skill_rows
from sweepft.demo.twin import twin_config, twin_tokenizer

Arch = Literal["llama", "granite", "mistral", "qwen2", "qwen3", "gpt_bigcode"]


def tiny_rows(rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Different chat rows with a domain each."""
    return list(skill_rows(NEW_SKILLS, rows, seed))


def tiny_data(folder: Path | str, rows: int = 64, seed: int = 0, name: str = "data.jsonl") -> Path:
    """Write `rows` different chat rows as JSON Lines; returns the file."""
    file = Path(folder) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(rows, seed)))
    return file


def tiny_tokenizer(vocab: int = 384) -> Any:
    """A real fast tokenizer with a chat template, always the same for one `vocab`."""
    return twin_tokenizer(vocab)


def tiny_config(arch: Arch, vocab: int, **changes: Any) -> Any:
    """A config of about 0.1 M parameters: hidden 64, 2 layers, 4 heads (2 of keys and values)."""
    import transformers

    tokens = {"vocab_size": vocab, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 3}
    if arch == "gpt_bigcode":
        size: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 128}
        return transformers.GPTBigCodeConfig(**{**size, **tokens, **changes})
    return twin_config(arch, vocab, **changes)


def tiny_model(
    folder: Path | str, arch: Arch = "llama", vocab: int = 384, seed: int = 0, **config: Any
) -> Path:
    """Save a random tiny model, its tokenizer and chat template; returns the folder.

    Args:
        folder: Made if missing.
        arch: Which architecture.
        vocab: Tokenizer and embedding size, at least 260.
        seed: Of the weights.
        **config: Changes to the architecture's config, e.g. ``attention_dropout=0.1``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    target = Path(folder)
    tokenizer = tiny_tokenizer(vocab)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(arch, len(tokenizer), **config))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
