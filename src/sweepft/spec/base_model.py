"""What config.json and the headers of the weight files say about a base model: whether it can be trained and exported.

Neither torch nor transformers is loaded. What needs the model's layers is checked by ``sweepft.data.base_model``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json, read_json_file
from sweepft.files import open_to_read

_OTHER_HEADS: Final = re.compile(
    r"For(MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|PreTraining|MultipleChoice"
    r"|NextSentencePrediction|ImageClassification|AudioClassification|Embedding|RewardModel)$"
)
_SIZES: Final = frozenset(
    (
        *("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads"),
        *(
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "n_embd",
            "n_layer",
            "n_head",
            "n_inner",
        ),
    )
)
_LARGEST: Final = 100_000_000
_LONGEST_HEADER: Final = 100_000_000
"""Bytes; the limit of safetensors itself."""


def config_problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rule and remedy of everything in a config.json that rules a model out."""
    text = config.get("text_config")
    parts = (config, text) if isinstance(text, Mapping) else (config,)
    quantized = next((part["quantization_config"] for part in parts if part.get("quantization_config")), None)
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        if method is None and isinstance(quantized, Mapping):  # as older versions of transformers wrote it
            bits = [n for n in (4, 8) if quantized.get(f"load_in_{n}bit")]
            method = f"bitsandbytes, {bits[0]} bits" if bits else None
        rule = f"the weights are quantized ({method or 'quantization_config in config.json'}), and are not trained so"
        remedy = (
            "name the model's original weights in bf16, fp16 or fp32; train.lora.quantize: nf4 quantizes them"
        )
        yield rule, remedy
    if config.get("is_encoder_decoder"):
        rule = f"a {config.get('model_type')} model has an encoder and a decoder; only causal models can be trained"
        yield rule, "name a causal language model (AutoModelForCausalLM)"
    for part in parts:
        yield from _numbers_and_code(part)
    listed = config.get("architectures")
    architectures = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    heads = [name for name in architectures if _OTHER_HEADS.search(name)]
    if heads and len(heads) == len(architectures):
        rule = f"the model is a {heads[0]}, not a causal language model: its weights have no output layer for tokens"
        yield rule, "name a causal language model (AutoModelForCausalLM)"


def _numbers_and_code(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in _SIZES & config.keys():
        size = config[key]
        if size is not None and (type(size) is not int or not 0 <= size <= _LARGEST):
            rule = (
                f"{key} in config.json must be a whole number up to {_LARGEST:,}, and is {str(size)[:40]!r}"
            )
            yield rule, "download config.json again"
    for key, value in config.items():
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            rule = f"{key} in config.json names code of a repository ({value[:80]}), which is not run"
            yield rule, f"remove {key} from config.json"


def folder_problem(folder: Path) -> tuple[str, str] | None:
    """Rule and remedy for a folder that holds something else than a model's weights."""
    if (folder / "adapter_config.json").is_file():
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        rule = "the folder contains an adapter (adapter_config.json), which transformers would load instead of a model"
        of = f" ({base})" if isinstance(base, str) and base else ""
        remedy = (
            f"name its base model{of}, or merge the adapter into it with peft (merge_and_unload, save_pretrained) "
            "and name that folder"
        )
        return rule, remedy
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        rule = "the folder contains GGUF files, which are quantized for inference"
        return rule, "name the model's original weights (safetensors)"
    return None


def header_problem(file: Path) -> str | None:
    """What is wrong with the header of a safetensors file, or None."""
    try:
        header = read_header(file)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        start = _header_size(file) + 8
    except (OSError, ValueError, KeyError, TypeError):
        return f"{file.name} is damaged: its header cannot be read"
    size = file.stat().st_size
    if size < start + end:
        return f"{file.name} is cut off: {size:,} bytes of {start + end:,}"
    return None


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name to dtype, shape and offsets of each tensor of a safetensors file.

    Raises:
        OSError, ValueError: If the file has no such header.
    """
    size = _header_size(file)
    if size > _LONGEST_HEADER:
        raise ValueError(f"{file}: a header of {size} bytes")
    with open_to_read(file, links=True) as stream:
        stream.seek(8)
        header = read_json(stream.read(size))
    if not isinstance(header, dict):
        raise ValueError(f"{file}: the header is no mapping")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _header_size(file: Path) -> int:
    with open_to_read(file, links=True) as stream:
        first = stream.read(8)
    if len(first) < 8:
        raise ValueError(f"{file}: has no header")
    return int.from_bytes(first, "little")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json_file(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
