"""A random-init twin of a model's architecture, a thousandth of its width: ``python -m sweepft.demo.twin FOLDER ARCH``.

The idea to keep in mind: it is the real architecture's class with grouped keys and values and a real tokenizer, so the
code that runs is the one that the large model runs. It imports torch, hence a process of its own.
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
    """A config of about 0.1 M parameters: width 64, 2 blocks, 4 heads, 2 of keys and values.

    Args:
        architecture: Whose.
        vocab: Embedding rows.
        **changes: To the config.
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
    """A real fast tokenizer with a chat template, always the same for one ``vocab``."""
    rows = [*skill_rows(NEW_SKILLS, 300, 0), *skill_rows(BASE_SKILLS, 100, 0), *knowledge_rows(0)]
    return train_tokenizer(rows, vocab)


def twin(folder: Path, architecture: Architecture, seed: int = 0) -> None:
    """Save a twin and its tokenizer in ``folder``, made if missing."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = twin_tokenizer()
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(twin_config(architecture, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    twin(Path(sys.argv[1]), sys.argv[2])  # type: ignore[arg-type]  # given by sweepft.demo.tiny
