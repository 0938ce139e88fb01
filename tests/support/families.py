"""Tiny random models of families whose weights transformers renames, fuses or ties in different ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from support.tiny import tiny_tokenizer

VOCABULARY: Final = 384

_SMALL: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 3,
}
_EXPERTS: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": True},
    "gpt_neox": {"rope_theta": 10000.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gemma3": {
        "text_config": {**_SMALL, "sliding_window": 16},
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
    "olmoe": _EXPERTS,
    "qwen3_moe": {**_EXPERTS, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {"original_max_position_embeddings": 128},
}  # fmt: skip


def family_model(folder: Path, family: str, **changes: Any) -> Path:
    """Save a random model of a family with the tests' tokenizer; returns the folder.

    Args:
        folder: Made if missing.
        family: Its ``model_type``.
        **changes: To its config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = FAMILIES.get(family, {})
    fields = {**own, **changes} if family in ("gemma3", "gpt2") else {**_SMALL, **own, **changes}
    if family == "gpt2":
        fields |= {key: _SMALL[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields))
        for parameter in model.parameters():
            if parameter.ndim > 1:  # not near zero: a weight that is lost or swapped must show in the logits
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tiny_tokenizer(VOCABULARY).save_pretrained(folder)
    return folder
