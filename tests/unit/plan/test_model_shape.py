"""The model's size: from weight files, config, flag or name, in this order of precedence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.errors import raises
from sweepft.errors import SweepftError
from sweepft.plan.model_shape import parse_count, shape_from_config, shape_of, typical_shape
from sweepft.spec import Model

# Published configs: what they are, and the parameters their authors count.
CONFIGS = {
    "granite-7b": (
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False},
        6_738_415_616,
    ),
    "llama-3.2-3b": (
        {"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
         "head_dim": 128, "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 128256,
         "tie_word_embeddings": True},
        3_212_749_824,
    ),
    "mistral-7b-v0.3": (
        {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": False},
        7_248_023_552,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_shape_from_config__published_models(name: str) -> None:
    config, parameters = CONFIGS[name]
    assert shape_from_config(config, None, name).parameters == parameters


@pytest.mark.parametrize("arch", ["llama", "granite", "mistral"])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": False}, {"attention_bias": True, "mlp_bias": True}]
)
def test_shape_from_config__counts_the_real_model(arch: str, changes: dict[str, bool]) -> None:
    """Counted from config.json, as ``transformers`` builds it."""
    import torch
    from transformers import AutoModelForCausalLM

    from support.tiny import tiny_config

    if arch == "mistral" and "mlp_bias" in changes:
        pytest.skip("Mistral has no biases")
    config = tiny_config(arch, 384, **changes)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_from_config(config.to_dict(), None, arch).parameters == sum(
        p.numel() for p in model.parameters()
    )


def test_shape_of__counts_weight_files(tiny_model_dir: Path) -> None:
    shape = shape_of(Model(path=str(tiny_model_dir)))
    config = json.loads((tiny_model_dir / "config.json").read_text())
    assert shape is not None
    assert shape.known
    assert shape.source == "its weight files"
    assert shape.parameters == shape_from_config(config, None, "tiny").parameters
    assert (shape.layers, shape.hidden) == (config["num_hidden_layers"], config["hidden_size"])


@pytest.mark.parametrize(
    ("path", "given", "parameters", "source"),
    [
        ("org/model-3b", None, 3_000_000_000, "the 3B in its name"),
        ("org/Llama-3.2-1.5B-Instruct", None, 1_500_000_000, "the 1.5B in its name"),
        ("org/SmolLM2-360M", None, 360_000_000, "the 360M in its name"),
        ("org/model-3b", 2_500_000_000, 2_500_000_000, "--params"),
    ],
)
def test_shape_of__size_from_flag_or_name(path: str, given: int | None, parameters: int, source: str) -> None:
    shape = shape_of(Model(path=path), given)
    assert shape is not None
    assert shape.parameters == parameters
    assert source in shape.source
    assert not shape.known


def test_shape_of__name_without_size() -> None:
    assert shape_of(Model(path="org/model-v2beta")) is None


def test_shape_of__unknown_architecture_needs_a_number(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "novel", "n_embd": 64}))
    with raises(SweepftError, "plan.params"):
        shape_of(Model(path=str(tmp_path)))
    shape = shape_of(Model(path=str(tmp_path)), 10_000_000)
    assert shape is not None
    assert shape.parameters == 10_000_000


@pytest.mark.parametrize("name", CONFIGS)
def test_typical_shape__near_published_models(name: str) -> None:
    config, parameters = CONFIGS[name]
    typical = typical_shape(parameters, "a test")
    assert typical.hidden == pytest.approx(config["hidden_size"], rel=0.1)
    assert typical.layers == pytest.approx(config["num_hidden_layers"], rel=0.15)


@pytest.mark.parametrize(
    ("text", "number"), [("3B", 3e9), ("3.2b", 3.2e9), ("350M", 3.5e8), ("7e9", 7e9), (" 12 k ", 12e3)]
)
def test_parse_count__accepts(text: str, number: float) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "three", "-3B", "0", "3G", "1.2.3B"])
def test_parse_count__refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 3B|could not convert"):
        parse_count(text)
