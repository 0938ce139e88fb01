"""Base models and adapters that cannot be trained or exported are refused before any GPU is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import specs
from support.errors import raises
from support.families import family_model
from support.tiny import tiny_data, tiny_tokenizer
from sweepft.data import prepare_in_child
from sweepft.data.base_model import check_base_model
from sweepft.data.tokenizer import load_tokenizer
from sweepft.errors import DataError
from sweepft.spec.sections import Model
from sweepft.spec.sweep import SweepSpec

SMALL = {"vocab_size": 384, "hidden_size": 32, "num_attention_heads": 2}
DECODER = {**SMALL, "intermediate_size": 48, "num_hidden_layers": 1}


def spec_of(model: Path, **values: Any) -> SweepSpec:
    return specs.spec({"model.path": str(model), **{key.replace("__", "."): v for key, v in values.items()}})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of families, each built once."""
    root = tmp_path_factory.mktemp("models")
    return lambda family: root / family if (root / family).exists() else family_model(root / family, family)


def saved(folder: Path, name: str, config: str, **fields: Any) -> Path:
    """A random model of any class of transformers."""
    import transformers

    model = getattr(transformers, name)(getattr(transformers, config)(**fields))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "config", "fields"),
    [
        ("BertForMaskedLM", "BertConfig", {**SMALL, "num_hidden_layers": 1}),
        ("BertLMHeadModel", "BertConfig", {**SMALL, "num_hidden_layers": 1}),  # sees later tokens
        (
            "T5ForConditionalGeneration",
            "T5Config",
            {"vocab_size": 384, "d_model": 32, "d_kv": 8, "num_heads": 2},
        ),
        (
            "BartForCausalLM",
            "BartConfig",
            {"vocab_size": 384, "d_model": 32, "decoder_layers": 1, "encoder_layers": 1},
        ),
        ("LlamaForSequenceClassification", "LlamaConfig", DECODER),
        ("LlamaModel", "LlamaConfig", DECODER),  # without an output layer
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_check_base_model__not_a_causal_model_is_refused(tmp_path, name, config, fields):
    model = saved(tmp_path / "model", name, config, **fields)
    if name == "BartForCausalLM":
        changes = json.loads((model / "config.json").read_text()) | {"is_encoder_decoder": True}
        (model / "config.json").write_text(json.dumps(changes))
    with raises(DataError, "model.path"):
        check_base_model(spec_of(model), ())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3", "olmoe"])
def test_check_base_model__whole_model_is_accepted(models, family):
    check_base_model(spec_of(models(family)), ())
    check_base_model(spec_of(models(family), train__lora={"rank": 4}), (383,))


@pytest.mark.parametrize("change", [{"intermediate_size": 64}, {"num_hidden_layers": 3}, {"quantization_config": {"quant_method": "awq", "bits": 4}}])  # fmt: skip
def test_check_base_model__weights_must_fit_the_config(tmp_path, change):
    model = family_model(tmp_path / "model", "llama")
    config = json.loads((model / "config.json").read_text()) | change
    (model / "config.json").write_text(json.dumps(config))
    with raises(DataError, "model.path"):
        check_base_model(spec_of(model), ())


@pytest.mark.parametrize(
    ("family", "lora", "new_ids", "wrong"),
    [
        ("llama", {"target_modules": ["query_key_value"]}, (), "query_key_value"),
        ("llama", {"target_modules": ["q_proj", "query_key_value"]}, (), "query_key_value"),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, (), "embed_tokens"),
        ("gpt2", {"target_modules": ["wte"]}, (), "wte"),
        ("llama", {"target_modules": ["lm_head"]}, (380,), "lm_head"),
        ("mixtral", {"target_modules": ["w1"]}, (), "w3"),
        ("llama", {"target_modules": ["q_proj", "input_layernorm"]}, (), "RMSNorm"),
    ],
)
def test_check_base_model__target_is_named(models, family, lora, new_ids, wrong):
    pytest.importorskip("peft")
    with raises(DataError, "train.lora.target_modules") as caught:
        check_base_model(spec_of(models(family), train__lora=lora), new_ids)
    assert len(caught.value.problems) == 1
    assert wrong in str(caught.value)


def test_check_base_model__every_swept_target_is_checked(models):
    space = {
        "batch_size": {"choice": [4]},
        "lora.target_modules": {"choice": [["q_proj"], ["nothing"]]},
        "lora.rank": {"choice": [4, 8]},
    }
    with raises(DataError, "search.space.lora.target_modules.choice.1"):
        check_base_model(spec_of(models("llama"), search__space=space), ())


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "gate_proj", "up_proj"]])
def test_check_base_model__experts_have_no_dropout(models, targets):
    pytest.importorskip("peft")
    spec = spec_of(models("olmoe"), train__lora={"target_modules": targets, "dropout": 0.1})
    with raises(DataError, "train.lora.dropout"):
        check_base_model(spec, ())


@pytest.mark.parametrize(
    ("family", "lora", "key", "named"),
    [
        ("llama", {"modules_to_save": ["embeddings"]}, "train.lora.modules_to_save", "embed_tokens, lm_head"),
        (
            "olmoe",
            {"quantize": "nf4", "target_modules": ["q_proj"]},
            "train.lora.quantize",
            "experts.gate_up_proj",
        ),
        ("llama", {"quantize": "nf4", "modules_to_save": ["lm_head", "mlp"]}, None, ""),
        ("gpt2", {"quantize": "nf4"}, None, ""),
        ("qwen3", {"quantize": "nf4", "modules_to_save": ["embed_tokens"]}, None, ""),
    ],
)
def test_check_base_model__layers_trained_whole_and_quantized(models, family, lora, key, named):
    pytest.importorskip("peft")
    spec = spec_of(models(family), train__lora=lora)
    if key is None:
        check_base_model(spec, ())
        return
    with raises(DataError, key) as caught:
        check_base_model(spec, ())
    assert named in str(caught.value)


def test_prepare__checks_the_model_in_the_child(models, tmp_path):
    values = {
        "model.path": str(models("llama")),
        "data": {
            "train": [{"path": str(tiny_data(tmp_path))}],
            "validation": [{"name": "own", "fraction": 0.2}],
            "max_length": 128,
        },
    }
    prepare_in_child(specs.spec(values), tmp_path / "cache")
    with raises(DataError, "train.lora.target_modules"):  # not answered from what is known of the same rows
        wrong = {"target_modules": ["nothing"]}
        prepare_in_child(specs.spec({**values, "train.lora": wrong}), tmp_path / "cache")


def load(folder: Path, template: str | None) -> Any:
    return load_tokenizer(Model.model_validate({"path": str(folder), "chat_template": template}), chats=True)


def test_load_tokenizer__names_new_tokens(models, tmp_path):
    folder = models("llama")
    assert load(folder, None).new_ids == ()
    assert load(folder, "plain").new_ids == ()
    base = tmp_path / "base"
    family_model(base, "llama", vocab_size=400)  # rows to spare, which nothing has trained
    config = json.loads((base / "tokenizer_config.json").read_text())
    core = (base / "tokenizer.json").read_text()
    for token in ("<|im_start|>", "<|im_end|>"):
        core = core.replace(token, token.replace("im", "no"))
        config = json.loads(json.dumps(config).replace(token, token.replace("im", "no")))
    (base / "tokenizer.json").write_text(core)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load(base, "chatml")
    names = loaded.tokenizer.convert_ids_to_tokens(list(loaded.new_ids))
    assert names == ["<|im_start|>", "<|im_end|>"]
    assert any("<|im_start|>" in warning for warning in loaded.warnings)
    assert load(base, "plain").new_ids == ()


def test_load_tokenizer__tokens_beyond_the_embeddings_are_new(tmp_path):
    base = family_model(tmp_path / "base", "llama")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save_pretrained(base)
    assert load(base, None).new_ids == (384, 385)


TEXT = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
    **{f"linear_{key}_head_dim": 8 for key in ("key", "value")},
    **{f"linear_num_{key}_heads": 2 for key in ("key", "value")},
}
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "num_position_embeddings": 16,
}


@pytest.mark.parametrize("further", ["mtp.fc.weight", "stray.weight", "model.layers.0.rotary_emb.inv_freq"])
def test_weights_that_are_not_loaded__are_a_warning(tmp_path: Path, further: str) -> None:
    """As in Qwen3.5, whose text part alone is loaded."""
    import torch
    from safetensors.torch import load_file, save_file

    fields = {"text_config": TEXT, "vision_config": VISION}
    model = saved(tmp_path / "model", "Qwen3_5ForConditionalGeneration", "Qwen3_5Config", **fields)
    file = model / "model.safetensors"
    save_file(load_file(file) | {further: torch.ones(2)}, file, metadata={"format": "pt"})
    warnings = check_base_model(spec_of(model), ())
    shown = [warning for warning in warnings if "model.visual." in warning or further in warning]
    assert len(shown) == len(warnings) == 1 + further.endswith(".weight")
    assert all("neither trained nor exported" in warning for warning in warnings)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox", "qwen3_moe"])
def test_weights_that_are_all_loaded__no_warning(models: Any, family: str) -> None:
    assert check_base_model(spec_of(models(family)), ()) == ()


@pytest.mark.parametrize(("asked", "warned"), [(True, True), (False, False)])
def test_router_loss_that_is_not_computed__is_a_warning(tmp_path: Path, asked: bool, warned: bool) -> None:
    model = family_model(tmp_path / "model", "olmoe", output_router_logits=asked, router_aux_loss_coef=0.25)
    found = [text for text in check_base_model(spec_of(model), ()) if "output_router_logits" in text]
    assert bool(found) is warned
    assert not found or "0.25" in found[0]
