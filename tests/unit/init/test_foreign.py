"""Configs of other trainers, as their projects' examples are: what is carried over, and what is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.errors import raises
from sweepft.errors import SpecError
from sweepft.init import Request, Setting, draft_spec, read_setting
from sweepft.spec import SweepSpec, load

AXOLOTL = """
base_model: org/model
load_in_4bit: true
datasets:
  - path: org/alpaca
    name: main
    type: alpaca
  - {path: chats.jsonl, ds_type: json, type: chat_template, field_messages: dialog, roles_to_train: [assistant, user],
     message_property_mappings: {role: speaker, content: words}, roles: {user: [client], assistant: [agent]}}
val_set_size: 0.1
output_dir: ./out
adapter: qlora
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 3
optimizer: paged_adamw_32bit
adam_beta2: 0.95
lr_scheduler: cosine
cosine_min_lr_ratio: 0.1
learning_rate: 2e-4
bf16: auto
gradient_checkpointing: true
warmup_steps: 10
weight_decay: 0.01
special_tokens: {pad_token: "<pad>"}
deepspeed: deepspeed_configs/zero2.json
wandb_project:
chat_template_kwargs: {enable_thinking: false}
"""
LLAMA_FACTORY = """
model_name_or_path: org/model
stage: sft
do_train: true
finetuning_type: lora
lora_target: q_proj,v_proj
lora_rank: 8
dataset: talk,rows
template: llama3
cutoff_len: 2048
max_samples: 1000
mask_history: true
output_dir: saves/x
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
enable_thinking: false
neftune_noise_alpha: 5
"""
INFO = {
    "talk": {
        "file_name": "talk.json", "formatting": "sharegpt",
        "columns": {"messages": "turns", "system": "persona"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"},
    },
    "rows": {"hf_hub_url": "org/rows", "subset": "main", "columns": {"prompt": "ask", "response": "reply"}},
}  # fmt: skip
TRL = """
model_name_or_path: org/model
dataset_name: org/chats
dataset_config: default
per_device_train_batch_size: 16
gradient_accumulation_steps: 2
learning_rate: 2.0e-05
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
warmup_ratio: 0.03
max_length: 4096
num_train_epochs: 1
max_grad_norm: 0.2
bf16: true
packing: true
assistant_only_loss: true
attn_implementation: kernels-community/flash-attn
report_to: [wandb]
push_to_hub: true
seed: 42
"""
ARGUMENTS = {
    "output_dir": "out", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "learning_rate": 1e-05,
    "num_train_epochs": 2, "max_steps": -1, "lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}, "warmup_ratio": 0.0,
    "warmup_steps": 0, "optim": "adamw_torch_fused", "optim_args": None, "adam_beta1": 0.9, "adam_beta2": 0.98,
    "adam_epsilon": 1e-08, "weight_decay": 0.1, "max_grad_norm": 1.0, "bf16": True, "fp16": False, "seed": 1,
    "label_smoothing_factor": 0.1, "logging_steps": 10, "eval_strategy": "no", "deepspeed": None, "fsdp": [],
}  # fmt: skip
STATE = {
    "best_metric": None, "epoch": 2.0, "global_step": 200, "max_steps": 200, "num_train_epochs": 2, "train_batch_size": 8,
    "log_history": [
        {"step": s, "loss": 1.0, "learning_rate": 3e-5 * (s / 20 if s <= 20 else (200 - s) / 180)} for s in range(10, 201, 10)
    ],
    "total_flos": 1e15, "is_world_process_zero": True, "trial_params": None,
}  # fmt: skip


def setting_of(tmp_path: Path, config: str | dict[str, Any], name: str = "config.yaml") -> Setting:
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / name).write_text(text)
    return read_setting(tmp_path / name)


def spec_of(tmp_path: Path, setting: Setting, **request: Any) -> SweepSpec:
    draft = draft_spec(Request(folder=tmp_path, **{"gpus": 1, **request}), setting)
    (tmp_path / "sweep.yaml").write_text(draft.text)
    return load(tmp_path / "sweep.yaml", check_files=False)


def first(spec: SweepSpec) -> dict[str, Any]:
    return dict(spec.search.baseline)


def test_axolotl(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, AXOLOTL)
    assert {left.key for left in setting.left} == {"sample_packing", "special_tokens"}
    assert setting.quiet == ["output_dir"]
    spec = spec_of(tmp_path, setting, gpus=2)
    assert spec.model.chat_template_kwargs == {"enable_thinking": False}
    assert first(spec) == {
        "batch_size": 16, "learning_rate": 2e-4, "warmup": {"steps": 10}, "schedule": "cosine", "lora.rank": 32,
    }  # fmt: skip
    rows, chats = spec.data.train
    assert (rows.path, rows.config, rows.format) == ("org/alpaca", "main", "alpaca")
    assert chats.columns == {"messages": "dialog", "role": "speaker", "content": "words"}
    assert (chats.roles, chats.train_on) == ({"client": "user", "agent": "assistant"}, ("assistant", "user"))
    train, lora = spec.train, spec.train.lora
    assert lora is not None
    assert (lora.alpha, lora.dropout, lora.target_modules, lora.quantize) == (16.0, 0.05, "all-linear", "nf4")
    assert (train.micro_batch, train.zero_stage, train.min_lr_ratio, train.budget.epochs) == (2, 2, 0.1, 3.0)
    assert (train.optimizer.name, train.optimizer.betas, train.optimizer.weight_decay) == (
        "adamw",
        (0.9, 0.95),
        0.01,
    )
    assert (train.precision, train.gradient_checkpointing) == ("bf16", True)
    assert (spec.data.max_length, spec.data.validation[0].fraction) == (4096, 0.1)


def test_llama_factory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))
    setting = setting_of(tmp_path, LLAMA_FACTORY)
    assert {left.key for left in setting.left} == {"template", "neftune_noise_alpha"}
    spec = spec_of(tmp_path, setting)
    assert spec.model.chat_template_kwargs == {"enable_thinking": False}
    assert first(spec) == {
        "batch_size": 8, "learning_rate": 1e-4, "warmup": 0.1, "schedule": "cosine", "lora.rank": 8,
    }  # fmt: skip
    talk, rows = spec.data.train
    assert talk.path == str(tmp_path / "data" / "talk.json")
    assert talk.columns == {"conversations": "turns", "system": "persona", "role": "who", "content": "says"}
    assert talk.roles == {"me": "user", "it": "assistant"}
    assert (rows.path, rows.config, rows.format) == ("org/rows", "main", "alpaca")
    assert rows.columns == {"instruction": "ask", "output": "reply"}
    assert (rows.limit, rows.train_on) == (1000, "last")
    assert spec.train.lora is not None
    assert spec.train.lora.target_modules == ("q_proj", "v_proj")
    assert spec.data.over_length == "truncate"


def test_llama_factory__data_set_that_nothing_describes(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, LLAMA_FACTORY)
    assert {left.value for left in setting.left if left.key == "dataset"} == {"talk", "rows"}
    with raises(SpecError, "--data"):
        draft_spec(Request(), setting)
    assert [s.path for s in spec_of(tmp_path, setting, data=["org/mine"]).data.train] == ["org/mine"]


def test_trl(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, TRL)
    assert {left.key for left in setting.left} == {"packing", "attn_implementation"}
    assert setting.quiet == ["report_to", "push_to_hub"]
    spec = spec_of(tmp_path, setting, gpus=8)
    assert first(spec) == {"batch_size": 256, "learning_rate": 2e-5, "warmup": 0.03, "schedule": "cosine"}
    assert (spec.train.min_lr_ratio, spec.train.gradient_clipping, spec.train.lora) == (0.1, 0.2, None)
    assert spec.train.optimizer.betas == (0.9, 0.999)
    assert spec.data.train[0].config is None


def test_training_arguments(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, ARGUMENTS, "training_args.json")
    assert [left.key for left in setting.left] == ["label_smoothing_factor"]
    spec = spec_of(tmp_path, setting, model="org/model", data=["org/rows"], method="full")
    assert first(spec) == {"batch_size": 32, "learning_rate": 1e-5, "warmup": 0.0, "schedule": "linear"}
    assert (spec.train.optimizer.betas, spec.train.optimizer.weight_decay) == ((0.9, 0.98), 0.1)
    assert spec.train.budget.epochs == 2.0


@pytest.mark.parametrize(
    ("shape", "schedule"),
    [(lambda x: 1 - x, "linear"), (lambda x: 0.5 * (1 + __import__("math").cos(3.14159 * x)), "cosine"), (lambda x: 1.0, "constant")],
)  # fmt: skip
def test_trainer_state__schedule_and_warmup_are_read_from_the_log(
    tmp_path: Path, shape: Any, schedule: str
) -> None:
    log = [
        {"step": s, "learning_rate": 3e-5 * (s / 20 if s <= 20 else shape((s - 20) / 180))}
        for s in range(10, 201, 10)
    ]
    setting = setting_of(tmp_path, STATE | {"log_history": log}, "trainer_state.json")
    assert [left.key for left in setting.left] == ["train_batch_size"]
    assert setting.point == {"learning_rate": 3e-5, "schedule": schedule, "warmup": {"steps": 20}}
    spec = spec_of(tmp_path, setting, model="org/model", data=["org/rows"])
    assert first(spec)["batch_size"] == 8


@pytest.mark.parametrize(
    "config", [AXOLOTL, LLAMA_FACTORY, TRL, ARGUMENTS], ids=["axolotl", "lf", "trl", "arguments"]
)
def test_foreign_config__no_key_is_dropped(tmp_path: Path, config: str | dict[str, Any]) -> None:
    values = yaml.safe_load(config) if isinstance(config, str) else dict(config)
    values["frobnicate"] = 3
    setting = setting_of(tmp_path, yaml.safe_dump(values))
    assert ("frobnicate", 3) in [(left.key, left.value) for left in setting.left]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"a": 1}, "--from"),
        ({"base_model": "org/m", "rl": "dpo"}, "rl"),
        ({"model_name_or_path": "org/m", "stage": "dpo", "finetuning_type": "lora"}, "stage"),
        ("- 1", "spec"),
        ("a: [", "spec"),
    ],
)
def test_foreign_config__that_is_none(tmp_path: Path, config: Any, key: str) -> None:
    with raises(SpecError, key):
        setting_of(tmp_path, config if isinstance(config, str) else yaml.safe_dump(config))


ADAPTERS = {
    "axolotl": {"base_model": "org/m", "adapter": "lora", "load_in_4bit": True, "peft_use_rslora": True,
                "lora_modules_to_save": ["embed_tokens", "lm_head"], "deepspeed": "zero3.json"},
    "LLaMA-Factory": {"model_name_or_path": "org/m", "stage": "sft", "finetuning_type": "lora", "use_rslora": True,
                      "quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True,
                      "quantization_type": "nf4", "additional_target": "embed_tokens,lm_head",
                      "deepspeed": "ds_z3_config.json"},
    "TRL": {"model_name_or_path": "org/m", "dataset_name": "org/d", "use_peft": True, "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True, "use_rslora": True,
            "lora_modules_to_save": ["embed_tokens", "lm_head"], "deepspeed": "zero3.json"},
}  # fmt: skip


@pytest.mark.parametrize("tool", ADAPTERS)
def test_foreign_config__four_bits_rslora_and_whole_layers(tmp_path: Path, tool: str) -> None:
    setting = setting_of(tmp_path, ADAPTERS[tool])
    assert not setting.left
    spec = spec_of(tmp_path, setting, data=["org/rows"])
    lora = spec.train.lora
    assert lora is not None
    assert (lora.quantize, lora.scaling, lora.modules_to_save) == (
        "nf4",
        "rslora",
        ("embed_tokens", "lm_head"),
    )
    assert spec.train.zero_stage == 2, "4-bit weights are not partitioned"
    plain = draft_spec(Request(data=["org/rows"], method="lora"), setting_of(tmp_path, ADAPTERS[tool]))
    assert "quantize:" not in plain.text
    assert [left.key for left in plain.left] == ["quantize"]


@pytest.mark.parametrize(
    ("config", "left"),
    [
        (ADAPTERS["LLaMA-Factory"] | {"quantization_bit": 8}, "quantization_bit"),
        (ADAPTERS["LLaMA-Factory"] | {"quantization_method": "hqq"}, "quantization_method"),
        (ADAPTERS["TRL"] | {"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type"),
        (ADAPTERS["TRL"] | {"use_peft": False}, "load_in_4bit"),
        (ADAPTERS["axolotl"] | {"load_in_4bit": False, "load_in_8bit": True}, "load_in_8bit"),
    ],
)
def test_foreign_config__other_quantization_is_listed(
    tmp_path: Path, config: dict[str, Any], left: str
) -> None:
    assert [found.key for found in setting_of(tmp_path, config).left] == [left]


def test_draft__qlora_quantizes_the_base(tmp_path: Path) -> None:
    draft = draft_spec(Request("org/model", ["org/rows"], method="qlora", folder=tmp_path))
    (tmp_path / "s.yaml").write_text(draft.text)
    spec = load(tmp_path / "s.yaml", check_files=False)
    assert spec.train.lora is not None
    assert (spec.train.lora.quantize, spec.train.zero_stage) == ("nf4", 1)


def test_draft__first_trial_lies_in_the_space_and_paths_are_relative(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"{i}"} for i in range(500)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    request = Request("org/model", [str(tmp_path / "rows.json")], gpus=4, method="full", folder=tmp_path)
    draft = draft_spec(request)
    assert "{path: rows.json}" in draft.text
    (tmp_path / "s.yaml").write_text(draft.text)
    spec = load(tmp_path / "s.yaml", check_files=False)
    for key, value in spec.search.baseline.items():
        assert spec.search.space[key].contains(value)
    largest = max(spec.search.space["batch_size"].choices)
    assert 2 * 475 / largest >= 40
    assert spec.resources.concurrent_trials * spec.resources.workers_per_trial == 4


def test_draft__chooses_a_format_for_rows_that_fit_two(tmp_path: Path) -> None:
    row = {"instruction": "a", "input": "", "output": "b", "text": "### a\n### b"}
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row | {"instruction": f"{i}"}) + "\n" for i in range(9))
    )
    draft = draft_spec(Request("org/model", [str(tmp_path / "rows.jsonl")], folder=tmp_path))
    assert "{path: rows.jsonl, format: alpaca}" in draft.text
    assert "read as alpaca" in " ".join(draft.notes)
