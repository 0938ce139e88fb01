"""Model folders that cannot be trained from are refused by their config.json and the headers of their files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from support.errors import raises
from support.specs import spec_dict
from sweepft.errors import SpecError
from sweepft.spec import load

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as far as these checks look: two shards."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "tokenizer.json").write_text("{}")
    (path / "config.json").write_text(json.dumps(CONFIG))
    for i in (1, 2):
        save_file({f"w{i}": np.ones((4, 4), np.float32)}, path / f"model-0000{i}-of-00002.safetensors")
    shards = {f"w{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    (path / INDEX).write_text(json.dumps({"weight_map": shards}))
    return path


def check(folder: Path) -> None:
    file = folder.parent / "sweep.yaml"
    file.write_text(yaml.safe_dump(spec_dict({"model.path": str(folder)})))
    load(file)


def config(**changes):
    def change(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))

    return change


def only(name: str, text: str = "{}"):
    """Leave the tokenizer and one file."""

    def change(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name != "tokenizer.json":
                path.unlink()
        (folder / name).write_text(text)

    return change


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


def cut_off(folder: Path) -> None:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def no_header(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def short_file(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"abc")


def wrong_index(folder: Path) -> None:
    shards = dict.fromkeys(("w1", "w3"), "model-00001-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))


def test_load__whole_folder_is_accepted(folder):
    check(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), "gptq"),
        (config(quantization_config={"quant_method": "mxfp4"}), "mxfp4"),
        (config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "bitsandbytes"),
        (config(quantization_config={"load_in_4bit": True}), "bitsandbytes"),
        (config(text_config={"quantization_config": {"quant_method": "fp8"}}), "fp8"),
        (config(is_encoder_decoder=True), "encoder"),
        (config(architectures=["LlamaForSequenceClassification"]), "SequenceClassification"),
        (config(architectures=["BertForMaskedLM"]), "MaskedLM"),
        (adapter, "org/base"),
        (only("adapter_config.json"), "adapter"),
        (only("model.Q4_K_M.gguf"), "GGUF"),
        (cut_off, "cut off"),
        (no_header, "damaged"),
        (short_file, "damaged"),
        (wrong_index, "w3"),
    ],
)
def test_load__unusable_folder_is_refused(folder, change, word):
    change(folder)
    with raises(SpecError, "model.path") as caught:
        check(folder)
    assert len(caught.value.problems) == 1
    assert word in str(caught.value)
