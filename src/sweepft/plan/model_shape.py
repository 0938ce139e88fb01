"""Size and shape of the base model, from its config.json and the headers of its weight files.

If the model is not on this machine (in a folder or the hub's cache), the shape is derived from the number of parameters
with the typical proportions of models with 1 to 8 billion parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json_file
from sweepft.errors import SweepftError
from sweepft.spec import Model, is_hub_id
from sweepft.spec.base_model import read_header

_GATED: Final = ("llama", "mistral", "granite", "qwen2")


@dataclass(frozen=True)
class ModelShape:
    """The dimensions that memory and time depend on.

    Attributes:
        parameters: Number of parameters; tied embeddings count once.
        hidden: Width of the residual stream.
        layers: Transformer blocks.
        intermediate: Width of the feed-forward part.
        heads: Attention heads.
        attention: Width of queries (heads x head size); keys and values are repeated to it.
        vocab: Embedding rows.
        largest_layer: Parameters of the largest module, for DeepSpeed's ZeRO-3 estimate.
        embeddings: Parameters of the input and output embeddings; tied ones count once.
        source: Source of the numbers, in words.
        known: Whether they were read rather than assumed.
    """

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    heads: int
    attention: int
    vocab: int
    largest_layer: int
    embeddings: int
    source: str
    known: bool


def shape_of(model: Model, parameters: int | None = None, *, look: bool = True) -> ModelShape | None:
    """The base model's shape.

    Args:
        model: The spec's section.
        parameters: Given by the user; overrides the size in the model's name, but not its files.
        look: Whether to look for the model's files.

    Returns:
        None if the model is not on this machine, ``parameters`` is None and its name contains no size.
    """
    folder = _folder(model) if look else None
    if folder is not None:
        try:
            config = read_json_file(folder / "config.json")
        except (OSError, ValueError):
            config = None
        if isinstance(config, dict):
            return shape_from_config(config, _stored_parameters(folder) or parameters, folder)
    if parameters is not None:
        return typical_shape(
            parameters, "--params, with the shape of a typical model of this size", vocabulary_of(model.path)
        )
    named = re.search(
        r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", model.path.split("/")[-1].lower()
    )
    if named is None:
        return None
    why = f"the {named[0].upper()} in its name, with the shape of a typical model of this size"
    return typical_shape(parse_count(named[0]), why, vocabulary_of(model.path))


def shape_from_config(config: Mapping[str, Any], stored: int | None, where: Path | str) -> ModelShape:
    """The shape described by a config.json.

    Args:
        config: Its contents.
        stored: Number of parameters from weight files or the user; required for unknown architectures.
        where: Place for messages.

    Raises:
        SweepftError: With key ``plan.params`` if the architecture is unknown and ``stored`` is None.
    """
    text = {**config, **(config.get("text_config") or {})}
    kind = text.get("model_type")
    hidden, layers, vocab = (text.get(key) for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    if not (isinstance(hidden, int) and isinstance(layers, int) and isinstance(vocab, int)):
        if stored is None:
            raise SweepftError(
                f"{where}: the size of a {kind} model is unknown\n  set it with --params 3B",
                key="plan.params",
            )
        return typical_shape(stored, f"{stored:,} parameters, with the shape of a typical model of this size")
    intermediate = int(text.get("intermediate_size") or 4 * hidden)
    heads = int(text.get("num_attention_heads") or 1)
    head = int(text.get("head_dim") or hidden // heads)
    counted = _gated_parameters(text, hidden, layers, vocab, intermediate, heads, head)
    total = stored if stored is not None else counted if kind in _GATED else None
    if total is None:
        raise SweepftError(
            f"{where}: the parameters of a {kind} model cannot be counted\n  set their number with --params 3B",
            key="plan.params",
        )
    source = "its weight files" if stored is not None else "its config.json"
    largest = max(vocab * hidden, hidden * intermediate, hidden * heads * head)
    ends = vocab * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return ModelShape(
        total, hidden, layers, intermediate, heads, heads * head, vocab, largest, ends, source, known=True
    )


_VOCABULARIES: Final = (
    (r"gemma-?3|gemma-?4", 262_144),
    (r"gemma", 256_000),
    (r"llama-?[34]", 128_256),
    (r"qwen|qwq", 151_936),
    (r"phi-?4", 100_352),
    (r"olmo-?2|olmo-?3", 100_352),
    (r"nemo|ministral|mistral-small", 131_072),
    (r"mistral.*v0\.3", 32_768),
    (r"smollm|granite", 49_152),
    (r"deepseek", 129_280),
    (r"mistral|llama|phi-?3|zephyr|vicuna|tinyllama", 32_000),
    (r"olmo|pythia", 50_304),
)
"""Rows of the embeddings by the family in a model's name; the first that fits."""


def vocabulary_of(name: str) -> int:
    """Rows of the embeddings of a model whose config.json is not here: by its family, or 64,000."""
    last = name.rstrip("/").split("/")[-1].lower()
    return next((size for pattern, size in _VOCABULARIES if re.search(pattern, last)), _VOCABULARY)


_VOCABULARY: Final = 64_000


def typical_shape(parameters: int, source: str, vocab: int = _VOCABULARY) -> ModelShape:
    """A model of this size with typical proportions: width 128 x depth, feed-forward 3 x width.

    A block then has about 13 width^2 parameters. For Llama 3.2 3B, Granite 7B and Mistral 7B the width is within 10%.
    """
    hidden = max(64, round((parameters * 128 / 13) ** (1 / 3) / 64) * 64)
    layers = max(1, round(hidden / 128))
    ends = min(2 * vocab * hidden, parameters // 2)
    return ModelShape(
        *(parameters, hidden, layers, 3 * hidden, layers, hidden, vocab, vocab * hidden, ends, source),
        known=False,
    )


def parse_count(text: str) -> int:
    """Parse ``3B``, ``350M`` or ``7.2e9``.

    Raises:
        ValueError: If it is not a number of at least 1.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmbt]?)\s*", text.lower())
    value = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[found[2]] if found else 0.0
    if not (math.isfinite(value) and value >= 1):
        raise ValueError(f"{text!r} is not a number such as 3B, 350M or 7000000000")
    return round(value)


def _gated_parameters(
    text: Mapping[str, Any], hidden: int, layers: int, vocab: int, intermediate: int, heads: int, head: int
) -> int:
    """Parameters of a Llama-like model: gated feed-forward, RMSNorm, grouped keys and values, untied by default."""
    queries, keys = heads * head, int(text.get("num_key_value_heads") or heads) * head
    bias = bool(text.get("attention_bias"))
    qkv_bias = bias or text.get("model_type") == "qwen2"
    attention = hidden * (2 * queries + 2 * keys) + qkv_bias * (queries + 2 * keys) + bias * hidden
    feed_forward = 3 * hidden * intermediate + bool(text.get("mlp_bias")) * (2 * intermediate + hidden)
    embeddings = vocab * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return embeddings + layers * (attention + feed_forward + 2 * hidden) + hidden


def _folder(model: Model) -> Path | None:
    """The model's folder on this machine: the named folder, or a snapshot in the hub's cache."""
    if Path(model.path).is_dir():
        return Path(model.path)
    if not is_hub_id(model.path):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _stored_parameters(folder: Path) -> int | None:
    """Number of elements in the folder's safetensors files, from their headers; None if there are none."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = set(read_json_file(index)["weight_map"].values())
            files = [folder / str(name) for name in sorted(names)]
        else:
            files = sorted(folder.glob("*.safetensors"))
        counts = [_elements(file) for file in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return sum(counts) or None


def _elements(file: Path) -> int:
    return sum(math.prod(entry["shape"]) for entry in read_header(file).values())
