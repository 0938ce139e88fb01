"""Create a tiny model of a given architecture with random weights: ``python -m sweepft.demo.twin FOLDER ARCHITECTURE``.

It uses the architecture's own class with grouped keys and values and a real tokenizer, so it runs the same code as the
large model. This module imports torch, so it runs in a child process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, Literal

from sweepft.demo.pretrain import train_tokenizer
from sweepft.demo.skills import BASE_SKILLS, NEW_SKILLS, knowledge_rows, skill_rows

Architecture = Literal["llama", "granite", "mistral", "qwen2", "qwen3"]
_VOCAB: Final = 384


def twin_config(architecture: Architecture, vocab: int, **changes: Any) -> Any:
    """A config with about 0.1 M parameters: width 64, 2 blocks, 4 heads, 2 key-value heads.

    ``vocab`` is the number of embedding rows; ``changes`` override fields of the config.
    """
    import transformers

    kinds = {
        "llama": transformers.LlamaConfig,
        "granite": transformers.GraniteConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }
    size: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "vocab_size": vocab,
        "pad_token_id": 0,
        "bos_token_id": 3,
        "eos_token_id": 3,
    }
    return kinds[architecture](**{**size, **changes})


def twin_tokenizer(vocab: int = _VOCAB) -> Any:
    """A fast tokenizer with a chat template; deterministic for each ``vocab``."""
    rows = [*skill_rows(NEW_SKILLS, 300, 0), *skill_rows(BASE_SKILLS, 100, 0), *knowledge_rows(0)]
    return train_tokenizer(rows, vocab)


def twin(folder: Path, architecture: Architecture, seed: int = 0) -> None:
    """Save the model and its tokenizer in ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = twin_tokenizer()
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(twin_config(architecture, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    twin(Path(sys.argv[1]), sys.argv[2])  # type: ignore[arg-type]  # passed by sweepft.demo.tiny
