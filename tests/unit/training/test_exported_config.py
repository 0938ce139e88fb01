"""An exported config.json is true of the weights beside it, and older programs read the same settings from it."""

from __future__ import annotations

import json

import pytest

from support.engine_material import engine_config
from sweepft.training.exported_config import complete_config

pytestmark = pytest.mark.filterwarnings("ignore")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LAYERS = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]


def saved(folder, base: dict, **changes):
    """A base folder with this config.json, and the folder that transformers saves of it."""
    from transformers import AutoConfig

    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(base))
    config = AutoConfig.from_pretrained(folder / "base")
    for key, value in changes.items():
        setattr(config, key, value)
    config.dtype = "bfloat16"
    config.save_pretrained(folder / "export")
    return folder / "export"


def read(folder):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def fields(folder):
    return json.loads((folder / "config.json").read_text())


def completed(folder, base: dict, weights=LAYERS, **changes):
    """The exported fields before and after, and what transformers reads before and after."""
    export = saved(folder, base, **changes)
    before = fields(export), read(export)
    complete_config(export, engine_config(folder / "base", folder), weights)
    return *before, fields(export), read(export)


@pytest.mark.parametrize(
    ("base", "kept"),
    [
        ({"model_type": "llama", "rope_theta": 5e5}, {"rope_theta": 5e5}),
        (
            {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3, "torch_dtype": "float32"},
            {"rope_theta": 5e5, "rope_scaling": LLAMA3, "torch_dtype": "bfloat16"},
        ),
        (
            {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": None},
            {"rope_theta": 1e6, "rope_scaling": None},
        ),
        ({"model_type": "stablelm", "partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.5}),
        (
            {"model_type": "gpt_neox", "rotary_emb_base": 20000, "rotary_pct": 0.5},
            {"rotary_emb_base": 20000, "rotary_pct": 0.5},
        ),
        (
            {"model_type": "gemma3_text", "rope_theta": 5e5, "rope_local_base_freq": 2e4},
            {"rope_theta": 5e5, "rope_local_base_freq": 2e4},
        ),
        ({"model_type": "gpt2"}, {}),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {}),
    ],
)
def test_complete_config__old_rope_keys_stay(tmp_path, base, kept):
    before, known, after, found = completed(tmp_path, base)
    assert {key: value for key, value in after.items() if key not in before} == kept
    assert getattr(found, "rope_parameters", None) == getattr(known, "rope_parameters", None)


def test_complete_config__old_rope_keys_of_a_text_part_stay(tmp_path):
    text = {
        "rope_theta": 5e5,
        "rope_local_base_freq": 2e4,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    before, known, after, found = completed(tmp_path, {"model_type": "gemma3", "text_config": text})
    assert {k: v for k, v in after["text_config"].items() if k not in before["text_config"]} == text
    assert found.text_config.rope_parameters == known.text_config.rope_parameters
    assert found.text_config.rope_parameters["full_attention"]["factor"] == 8.0


def test_complete_config__keys_that_would_change_the_model_are_left_out(tmp_path):
    base = {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3}
    other = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    before, _, after, found = completed(tmp_path, base, rope_parameters=other)
    assert after == before
    assert found.rope_parameters == other


@pytest.mark.parametrize(
    ("base", "key"),
    [
        ({"model_type": "glm4_moe", "num_nextn_predict_layers": 1, "num_hidden_layers": 2}, "num_mtp_layers"),
        (
            {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1, "num_hidden_layers": 2},
            "num_mtp_layers",
        ),
        (
            {"model_type": "qwen3_next", "mtp_num_hidden_layers": 1, "num_hidden_layers": 2},
            "mtp_num_hidden_layers",
        ),
        (
            {"model_type": "llama", "num_nextn_predict_layers": 2, "num_hidden_layers": 2},
            "num_nextn_predict_layers",
        ),
    ],
)
def test_complete_config__layers_that_are_not_exported_are_not_counted(tmp_path, base, key):
    from sweepft.training.exported_config import counted_layers

    before, known, after, found = completed(tmp_path, base)
    assert counted_layers(before)
    assert not counted_layers(after)
    assert getattr(known, key) > 0
    assert getattr(found, key) == 0


@pytest.mark.parametrize("name", ["mtp.layers.0.eh_proj.weight", "model.layers.2.eh_proj.weight"])
def test_complete_config__layers_that_are_exported_are_counted(tmp_path, name):
    base = {"model_type": "llama", "num_nextn_predict_layers": 1, "num_hidden_layers": 2}
    before, _, after, _ = completed(tmp_path, base, [*LAYERS, name])
    assert after == before
    assert after["num_nextn_predict_layers"] == 1
