"""The model families of the table: a tiny config of each and the chat template and special tokens it comes with.

Sizes are the smallest at which every mechanism of the family still acts: two blocks (four where block kinds alternate),
a sliding window and an original context length that are shorter than the longest rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.families.templates import TEMPLATES

WINDOW: Final = 24
"""Tokens of a sliding window or an attention chunk: less than a row."""
ORIGINAL: Final = 48
"""Original context length of scaled rotary embeddings: some rows are shorter, some longer."""
POSITIONS: Final = 256


@dataclass(frozen=True)
class Recipe:
    """One line of the table.

    Attributes:
        name: The family as people call it.
        config: Name of its config class in transformers.
        template: Name of its chat template in `benchmarks.families.templates`.
        changes: Fields of the config beside the common sizes.
        mechanism: What sets it apart, in a few words.
        eos: The tokenizer's end-of-sequence token; None: the template's end of turn.
        pad: The tokenizer's pad token; None where it comes without one.
        bos: The tokenizer's first token of a text, if it has one.
        common: Whether the config takes the common sizes; else ``changes`` is all there is.
        quick: Whether the default test suite runs it.
        targets: Layers that get adapters.
    """

    name: str
    config: str
    template: str
    changes: dict[str, Any] = field(default_factory=dict)
    mechanism: str = ""
    eos: str | None = None
    pad: str | None = None
    bos: str | None = None
    common: bool = True
    quick: bool = False
    targets: str | tuple[str, ...] = "all-linear"


SIZES: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": POSITIONS,
}
_GPT2: Final = {
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS, "n_inner": 96,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_LLAMA3: Final = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
_ALTERNATING: Final = ["sliding_attention", "full_attention"]
_MOE: Final = {"num_experts": 4, "num_experts_per_tok": 2}


def _longrope(pairs: int) -> dict[str, Any]:
    """Scaling with clearly different factors on both sides of the original length; ``pairs`` rotated dimensions / 2."""
    return {
        "rope_type": "longrope", "rope_theta": 1e4,
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [2.0 + 0.5 * i for i in range(pairs)],
        "original_max_position_embeddings": ORIGINAL,
    }  # fmt: skip


RECIPES: Final[tuple[Recipe, ...]] = (
    Recipe("Qwen2.5 base", "Qwen2Config", "chatml", {"tie_word_embeddings": True}, "end of turn is not eos",
           eos="<|endoftext|>", pad="<|endoftext|>", quick=True),
    Recipe("Qwen2.5, sliding window", "Qwen2Config", "chatml",
           {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}, "sliding window",
           pad="<|endoftext|>"),
    Recipe("DeepSeek-R1-Distill-Qwen", "Qwen2Config", "deepseek", {}, "no pad token, BOS",
           bos="<｜begin▁of▁sentence｜>"),
    Recipe("Qwen3", "Qwen3Config", "qwen3", {"tie_word_embeddings": True}, "query and key norms",
           pad="<|endoftext|>"),
    Recipe("Qwen3-MoE", "Qwen3MoeConfig", "qwen3", {**_MOE, "moe_intermediate_size": 48}, "mixture of experts",
           pad="<|endoftext|>"),
    Recipe("Qwen3-Next", "Qwen3NextConfig", "qwen3",
           {**_MOE, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
            "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
            "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
           "linear attention, mixture of experts", pad="<|endoftext|>"),
    Recipe("Qwen3.5", "Qwen3_5TextConfig", "qwen3",
           {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
            "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
           "linear attention", pad="<|endoftext|>", quick=True),
    Recipe("Llama 2", "LlamaConfig", "llama2", {"num_key_value_heads": 4}, "no pad token, BOS",
           bos="<s>"),
    Recipe("Llama 3.2", "LlamaConfig", "llama3", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True},
           "rope scaling, no pad token", bos="<|begin_of_text|>", quick=True),
    Recipe("Llama 3 base", "LlamaConfig", "llama3", {"rope_parameters": _LLAMA3}, "end of turn is not eos",
           eos="<|end_of_text|>", bos="<|begin_of_text|>"),
    Recipe("Llama 4 text", "Llama4TextConfig", "llama3",
           {"intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2, "attention_chunk_size": WINDOW,
            "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
           "chunked attention, mixture of experts", bos="<|begin_of_text|>",
           targets=("q_proj", "k_proj", "v_proj", "o_proj")),  # peft cannot adapt its router
    Recipe("SmolLM3", "SmolLM3Config", "chatml", {"no_rope_layers": [1, 0], "no_rope_layer_interval": 2},
           "layers without rope", pad="<|im_end|>"),
    Recipe("Gemma 2", "Gemma2Config", "gemma",
           {"sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 12.0,
            "query_pre_attn_scalar": 16, "layer_types": _ALTERNATING}, "soft caps, sliding window",
           eos="<eos>", pad="<pad>", bos="<bos>", quick=True),
    Recipe("Gemma 3 text", "Gemma3TextConfig", "gemma",
           {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "layer_types": _ALTERNATING},
           "two ropes, sliding window", eos="<eos>", pad="<pad>", bos="<bos>"),
    Recipe("Gemma 3", "Gemma3Config", "gemma", {}, "multimodal", eos="<eos>", pad="<pad>", bos="<bos>",
           common=False),
    Recipe("Mistral, sliding window", "MistralConfig", "mistral", {"sliding_window": WINDOW}, "sliding window",
           bos="<s>"),
    Recipe("Ministral 3", "Ministral3Config", "mistral", {}, "yarn rope", bos="<s>", pad="<pad>"),
    Recipe("Mixtral", "MixtralConfig", "mistral", {"num_local_experts": 4, "sliding_window": None},
           "mixture of experts", bos="<s>"),
    Recipe("Phi-3 longrope", "Phi3Config", "phi3",
           {"rope_parameters": _longrope(8), "original_max_position_embeddings": ORIGINAL,
            "pad_token_id": 0}, "rope by length", eos="<|endoftext|>", pad="<|endoftext|>", quick=True),
    Recipe("Phi-4-mini", "Phi3Config", "phi4",
           {"rope_parameters": _longrope(6) | {"partial_rotary_factor": 0.75},
            "original_max_position_embeddings": ORIGINAL, "tie_word_embeddings": True},
           "rope by length on a part of each head", eos="<|endoftext|>", pad="<|endoftext|>"),
    Recipe("Granite 3", "GraniteConfig", "granite",
           {"attention_multiplier": 0.1, "residual_multiplier": 0.5, "logits_scaling": 0.5,
            "embedding_multiplier": 3.0}, "multipliers", eos="<|end_of_text|>", pad="<|end_of_text|>"),
    Recipe("GraniteMoE", "GraniteMoeConfig", "granite",
           {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.1,
            "embedding_multiplier": 3.0}, "mixture of experts", eos="<|end_of_text|>", pad="<|end_of_text|>"),
    Recipe("Granite 4 H", "GraniteMoeHybridConfig", "granite",
           {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 96,
            "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2,
            "mamba_chunk_size": 16, "attention_multiplier": 0.1, "embedding_multiplier": 3.0}, "mamba",
           eos="<|end_of_text|>", pad="<|pad|>"),
    Recipe("OLMo 2", "Olmo2Config", "tulu", {}, "norms after each part", eos="<|endoftext|>", pad="<|pad|>"),
    Recipe("OLMo 3", "Olmo3Config", "chatml", {"sliding_window": WINDOW, "layer_types": _ALTERNATING},
           "sliding window", eos="<|endoftext|>", pad="<|pad|>"),
    Recipe("OLMoE", "OlmoeConfig", "tulu", {**_MOE, "num_key_value_heads": 4}, "mixture of experts",
           eos="<|endoftext|>", pad="<|pad|>"),
    Recipe("GPT-NeoX (Pythia)", "GPTNeoXConfig", "plain", {}, "fused query, key, value",
           eos="<|endoftext|>"),
    Recipe("GPT-BigCode", "GPTBigCodeConfig", "plain", dict(_GPT2), "one key and value head",
           eos="<|endoftext|>", common=False),
    Recipe("GPT-2", "GPT2Config", "plain", dict(_GPT2), "Conv1D layers, learned positions",
           eos="<|endoftext|>", common=False),
    Recipe("LFM2", "Lfm2Config", "chatml",
           {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
           "short convolutions", pad="<|pad|>", bos="<|startoftext|>"),
    Recipe("Falcon", "FalconConfig", "plain",
           {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 96,
            "max_position_embeddings": POSITIONS, "multi_query": True}, "attention and feed-forward in parallel",
           eos="<|endoftext|>", common=False),
    Recipe("StableLM 2", "StableLmConfig", "chatml", {}, "partial rope", eos="<|endoftext|>", pad="<|endoftext|>"),
    Recipe("Command R (Cohere)", "CohereConfig", "cohere", {"logit_scale": 1.0}, "logit scale, layer norm",
           bos="<BOS_TOKEN>", pad="<PAD>"),
    Recipe("gpt-oss", "GptOssConfig", "harmony",
           {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW, "layer_types": _ALTERNATING,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0,
                                "beta_slow": 1.0, "original_max_position_embeddings": ORIGINAL}},
           "attention sinks, mixture of experts", pad="<|endoftext|>"),
)  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        KeyError: If there is none.
    """
    return {one.name: one for one in RECIPES}[name]


def config_of(one: Recipe, tokens: dict[str, int], vocab: int) -> Any:
    """The tiny config of a family; ``tokens`` are the ids of bos, eos and pad."""
    import transformers

    if one.config == "Gemma3Config":
        text = {**SIZES, "vocab_size": vocab, "sliding_window": WINDOW, "query_pre_attn_scalar": 16,
                "layer_types": _ALTERNATING, **tokens}  # fmt: skip
        vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "image_size": 16, "patch_size": 8}  # fmt: skip
        return transformers.Gemma3Config(
            text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=vocab - 1,
            boi_token_index=vocab - 2, eoi_token_index=vocab - 3, **tokens
        )  # fmt: skip
    sizes = SIZES if one.common else {}
    fields = {
        **sizes,
        "vocab_size": vocab,
        "pad_token_id": None,
        "bos_token_id": None,
        **tokens,
        **one.changes,
    }
    return getattr(transformers, one.config)(**fields)


def special_tokens(one: Recipe) -> tuple[list[str], str, str]:
    """A family's special tokens, its eos and its end of turn."""
    template = TEMPLATES[one.template]
    end = template.end or one.eos
    assert end is not None
    eos = one.eos or end
    named = [one.bos, one.pad, eos, end, *template.tokens]
    return list(dict.fromkeys(token for token in named if token)), eos, end
