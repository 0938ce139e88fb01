"""Exported weights load elsewhere as what was trained, in families whose weights are renamed, fused or tied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.engine_material import engine_config, train_config
from support.errors import raises
from support.families import FAMILIES, family_model
from support.ranks import on_ranks
from support.tiny import tiny_tokenizer
from sweepft.errors import ExportMismatch
from sweepft.spec import Lora
from sweepft.training.batching import Layout
from sweepft.training.lora import attach_adapter, save_adapter, set_in_place
from sweepft.training.read_back import check_adapter, check_model

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = Lora(rank=4, alpha=8.0)


def logits(runner):
    """Of three rows, as the engine computes them."""
    rows = runner._some_rows()
    runner.zero.eval()
    with torch.no_grad():
        found = runner.zero.logits(Layout("rows", len(rows), 0).collate(rows)).float().numpy().copy()
    runner.zero.train()
    return found


def stored(folder: Path):
    """Names of the weights in a folder's files."""
    return {name for file in folder.glob("*.safetensors") for name in load_file(file)}


def exported(runner, folder: Path, first, second):
    """Logits of the base model, of a warm trial, of its weights loaded into a later trial; and the rows."""
    runner.start(first)
    base = logits(runner)
    runner.run(16)
    runner.start(second)
    runner.run(32)
    trained = logits(runner)
    runner.export(str(folder / "weights"), str(folder / "tokenizer"))
    runner.start(first)
    runner.run(16)
    runner.start(second)
    runner.load_weights(str(folder / "weights"))
    rows = [(tokens.tolist(), mask.tolist()) for tokens, mask in runner._some_rows()]
    return base, trained, logits(runner), rows


def plain_logits(model, rows):
    """At the same positions, one row at a time."""
    found = []
    with torch.no_grad():
        for tokens, mask in rows:
            out = model(torch.tensor([tokens])).logits[0, :-1].float()
            found.append(out[torch.tensor(mask[1:])])
    return torch.cat(found).numpy()


PROCESSOR = ("processor_config.json", "preprocessor_config.json")


def full(*case):
    return pytest.param(*case, marks=pytest.mark.full)


@pytest.mark.parametrize(
    ("family", "lora", "stage", "world_size", "changes"),
    [
        ("gpt_neox", None, 2, 1, {}),
        ("gemma3", None, 2, 1, {}),
        ("olmoe", None, 0, 1, {}),
        ("olmoe", ADAPTER, 2, 1, {}),
        ("qwen3", ADAPTER.model_copy(update={"target_modules": ("q_proj", "lm_head")}), 2, 1, {}),  # tied
        *(full(f, lora, 2, 1, {}) for f in FAMILIES for lora in (None, ADAPTER)),
        *(full(f, lora, 3, 2, {}) for f in FAMILIES for lora in (None, ADAPTER)),
        full("olmoe", ADAPTER, 1, 2, {"precision": "bf16"}),
        full("gemma3", None, 1, 2, {"precision": "bf16"}),
        full("llama", ADAPTER.model_copy(update={"target_modules": ("q_proj", "lm_head")}), 3, 2, {}),
        full("gemma3", ADAPTER.model_copy(update={"target_modules": ("q_proj", "lm_head")}), 0, 2, {}),
    ],
)
def test_export__loads_as_trained(tmp_path, family, lora, stage, world_size, changes):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = family_model(tmp_path / "model", family)
    for name in PROCESSOR:
        (model / name).write_text(f'{{"is": "{name}"}}')
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    plan = engine_config(model, tmp_path, zero_stage=stage, **changes)
    other = None if lora is None else lora.model_copy(update={"alpha": 2.0})
    first, second = train_config(lora=other), train_config(lora=lora, seed=3)
    before, trained, there, rows = on_ranks(exported, world_size, plan, tmp_path, first, second)
    assert np.abs(trained - before).max() > 0.05, "something was learned"
    assert np.array_equal(there, trained), "loaded into another trial's engine it is the same model"
    tolerance = {"atol": 2e-5, "rtol": 1e-4} if plan.precision == "fp32" else {"atol": 0.15, "rtol": 0.05}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    untied = lora is not None and "lm_head" in lora.target_modules
    expected = stored(model) | ({"lm_head.weight"} if untied else set())
    assert stored(tmp_path / "weights") == expected, "tied weights are stored once"
    np.testing.assert_allclose(plain_logits(loaded, rows), trained, **tolerance)
    for name in PROCESSOR:  # servers need them for a model with a vision part
        copy = tmp_path / "weights" / name
        assert copy.read_text() == f'{{"is": "{name}"}}' if family == "gemma3" else not copy.exists()
    if lora is not None:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=loaded.dtype)
        adapted = PeftModel.from_pretrained(base, tmp_path / "weights" / "adapter")
        np.testing.assert_allclose(plain_logits(adapted, rows), trained, **tolerance)


def change(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-3


def lose(tensors):
    del tensors["model.norm.weight"]


def add(tensors):
    tensors["model.norm.other"] = torch.ones(3)


def reshape(tensors):
    tensors["model.norm.weight"] = torch.ones(3)


@pytest.mark.parametrize("damage", [change, lose, add, reshape])
def test_check_model__damage_is_found(tmp_path, damage):
    from transformers import AutoModelForCausalLM

    folder = family_model(tmp_path / "model", "qwen3")
    expected = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    check_model(folder, expected)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with raises(ExportMismatch, "rank.export_mismatch") as caught:
        check_model(folder, expected)
    assert "model.norm" in str(caught.value)


@pytest.mark.parametrize("sharded", [False, True])
def test_check_model__shards_are_read(tmp_path, sharded):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(family_model(tmp_path / "model", "mixtral"))
    model.save_pretrained(tmp_path / "out", max_shard_size="20KB" if sharded else "1GB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1 or not sharded
    check_model(tmp_path / "out", model.state_dict())


def test_check_adapter__another_scale_is_found(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = family_model(tmp_path / "model", "olmoe")
    adapted = attach_adapter(AutoModelForCausalLM.from_pretrained(folder), ADAPTER, str(folder))
    set_in_place(adapted, ADAPTER.model_copy(update={"alpha": 64.0}))
    trained = {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}

    def check(place):
        save_adapter(adapted, trained, tmp_path / place)
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / place)
        check_adapter(tmp_path / place, loaded, adapted, trained)

    check("right")
    adapted.peft_config["default"].alpha_pattern = {r".*\.gate_up_proj": 8.0}  # of the trial before
    with raises(ExportMismatch, "rank.export_mismatch") as caught:
        check("wrong")
    assert "experts" in str(caught.value)
