"""Configs of axolotl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.errors import Problem, SpecError
from sweepft.init.common import (
    PACKING,
    WORDS,
    is_quiet,
    lora,
    optimizer,
    place,
    schedule,
    warmup,
    with_bf16,
    zero_stage,
)
from sweepft.init.setting import Config, Left, Setting

_WORDS: Final = {
    **WORDS,
    "sample_packing": PACKING,
    "pad_to_sequence_len": "rows are padded to the longest of a micro-batch",
    "train_on_inputs": "prompts are not learned; see train_on of a source",
    "special_tokens": "the tokenizer's own are used; a missing pad token is added",
    "flash_attention": "transformers' default is used",
    "sdp_attention": "transformers' default is used",
    "lora_model_dir": "each trial starts from the base model",
    "loraplus_lr_ratio": "both matrices of an adapter have the same rate",
    "peft_use_dora": "adapters are plain LoRA",
    "loss_watchdog_threshold": "see early_stop.divergence_check",
    "loss_watchdog_patience": "see early_stop.divergence_check",
    "curriculum_sampling": "see data.phases",
    "tokens": "added tokens come with the chat template",
    "plugins": "only Liger kernels are carried over (train.liger)",
}
_QUIET: Final = (
    *(
        "dataset_prepared_path",
        "val_set_size",
        "strict",
        "evals_per_epoch",
        "saves_per_epoch",
        "eval_sample_packing",
    ),
    *(
        "eval_table_size",
        "eval_max_new_tokens",
        "is_llama_derived_model",
        "xformers_attention",
        "s2_attention",
    ),
    *(
        "dataset_processes",
        "shuffle_merged_datasets",
        "model_type",
        "tokenizer_type",
        "gptq",
        "unfrozen_parameters",
    ),
)
_TEMPLATES: Final = ("tokenizer_default", "chatml")
_TYPES: Final = {"alpaca": "alpaca", "alpaca_chat": "alpaca", "sharegpt": "sharegpt", "completion": "text"}


def read_axolotl(config: Config, path: Path) -> Setting:
    """A config of ``axolotl train``; keys that it leaves out have axolotl's defaults.

    Raises:
        SpecError: If it is no supervised fine-tuning.
    """
    setting = Setting("axolotl")
    rl = config.take("rl")
    if rl:
        rule = f"the config trains with {rl}, and sweepft sweeps supervised fine-tuning only"
        raise SpecError([Problem(str(path), "rl", rule, "name a config without rl", rl)])
    setting.model["path"] = place(str(config.take("base_model")), path)
    for key, name in (("revision", "revision_of_model"), ("trust_remote_code", "trust_remote_code")):
        if (value := config.take(name)) not in (None, False):
            setting.model[key] = value
    _template(config, setting, path)
    _data(config, setting, path)
    _adapter(config, setting)
    _training(config, setting, path)
    config.leave(setting, _WORDS, _QUIET, is_quiet)
    return setting


def _template(config: Config, setting: Setting, path: Path) -> None:
    if variables := config.take("chat_template_kwargs"):
        setting.model["chat_template_kwargs"] = variables
    template, file = config.take("chat_template"), config.take("chat_template_jinja")
    if template == "chatml":
        setting.model["chat_template"] = "chatml"
    elif template not in (None, *_TEMPLATES, "jinja"):
        why = "the tokenizer's own chat template is used; name a Jinja file in model.chat_template for another one"
        setting.left.append(Left("chat_template", template, why))
    if file is not None:
        found = path.parent / str(file)
        if len(str(file)) < 200 and found.is_file():
            setting.model["chat_template"] = str(found.resolve())
        else:
            setting.left.append(
                Left("chat_template_jinja", file, "save it as a file and name it in model.chat_template")
            )


def _data(config: Config, setting: Setting, path: Path) -> None:
    setting.data |= {"max_length": int(config.number("sequence_len", default=512)), "over_length": "drop"}
    inputs = config.take("train_on_inputs", default=False)
    for entry in config.take("datasets") or []:
        setting.sources.append(_source(entry, setting, path, bool(inputs)))
    for i, entry in enumerate(config.take("test_datasets") or []):
        setting.validation.append(_source(entry, setting, path, False) | {"name": f"validation-{i + 1}"})
    size = config.number("val_set_size", default=0)
    if size and not setting.validation:
        if size < 1:
            setting.validation.append({"name": "validation", "fraction": float(size)})
        else:
            setting.left.append(Left("val_set_size", size, "a validation set is a fraction of the rows"))


def _source(entry: Mapping[str, Any], setting: Setting, path: Path, inputs: bool) -> dict[str, Any]:
    item = Config(entry)
    name, files = str(item.take("path")), item.take("data_files")
    if name in ("json", "csv", "parquet", "arrow") and files:
        name = files if isinstance(files, str) else str(files[0])
        if not isinstance(files, str) and len(files) > 1:
            setting.left.append(Left("data_files", files[1:], "name each file as a source of its own"))
    source: dict[str, Any] = {"path": place(name, path)}
    config_name, split, revision = item.take("name"), item.take("split"), item.take("revision")
    source |= {
        key: value for key, value in (("config", config_name), ("revision", revision)) if value is not None
    }
    if split not in (None, "train"):
        source["split"] = split
    source |= _format(item.take("type"), setting)
    if columns := _columns(item):
        source["columns"] = {**source.get("columns", {}), **columns}
    roles = {
        name: role for role, names in (item.take("roles") or {}).items() for name in names if name != role
    }
    known = {"human", "gpt", "model", "user", "assistant", "system"}
    if own := {name: role for name, role in roles.items() if name not in known}:
        source["roles"] = own
    trained = item.take("roles_to_train")
    learn = [{"human": "user", "gpt": "assistant"}.get(r, r) for r in trained] if trained else ["assistant"]
    if inputs and "user" not in learn:
        learn = [*learn, "user"]
    if learn != ["assistant"]:
        source["train_on"] = learn
    for key, value in item.rest().items():
        if key not in ("ds_type", "preprocess_shards", "shards", "conversation") and value not in (
            False,
            0,
            [],
            {},
        ):
            setting.left.append(Left(f"datasets.{key}", value, "sweepft has no key for it"))
    return source


def _format(kind: Any, setting: Setting) -> dict[str, Any]:
    if isinstance(kind, Mapping):
        return _own_format(kind, setting)
    first = str(kind or "").partition(".")[0].partition(":")[0]
    if first in _TYPES:
        return {"format": _TYPES[first]}
    if first not in ("", "chat_template"):
        why = "the format is recognised by the columns; see `columns` of a source"
        setting.left.append(Left("datasets.type", kind, why))
    return {}


def _columns(item: Config) -> dict[str, Any]:
    """Columns, and keys of messages, by other names."""
    mapped = item.take("message_property_mappings") or {}
    old = {"role": item.take("message_field_role"), "content": item.take("message_field_content")}
    usual = {
        "messages": ("messages", "conversations"),
        "role": ("role", "from"),
        "content": ("content", "value"),
        "text": ("text",),
        "system": ("system",),
    }
    given = {
        "messages": item.take("field_messages"),
        **{key: mapped.get(key) or name for key, name in old.items()},
        "text": item.take("field"),
        "system": item.take("field_system"),
    }
    return {key: name for key, name in given.items() if name is not None and name not in usual[key]}


def _own_format(kind: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """A format of the user's own: names of columns are carried, its texts are not."""
    names = {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
    }
    columns = {names[key]: value for key, value in kind.items() if key in names and value != names[key]}
    for key, value in kind.items():
        if key not in names and value:
            setting.left.append(
                Left(f"datasets.type.{key}", value, "the chat template writes the text around turns")
            )
    return {"format": "alpaca", **({"columns": columns} if columns else {})}


def _adapter(config: Config, setting: Setting) -> None:
    adapter = config.take("adapter")
    rank, alpha = config.number("lora_r", default=8), config.number("lora_alpha", default=16)
    dropout = config.number("lora_dropout", default=0.0)
    every, targets = (
        config.take("lora_target_linear"),
        config.take("lora_target_modules", default="all-linear"),
    )
    stabilized, saved = config.take("peft_use_rslora"), config.take("lora_modules_to_save")
    if not adapter:
        return
    if adapter not in ("lora", "qlora"):
        setting.left.append(Left("adapter", adapter, "adapters are plain LoRA"))
    quantized = bool(config.take("load_in_4bit")) or adapter == "qlora"
    setting.train["lora"] = lora(
        rank,
        alpha,
        dropout,
        "all-linear" if every else targets,
        stabilized=stabilized,
        saved=saved,
        quantized=quantized,
    )


def _training(config: Config, setting: Setting, path: Path) -> None:
    micro = int(config.number("micro_batch_size", default=1))
    setting.train["micro_batch"] = micro
    setting.batch = micro * int(config.number("gradient_accumulation_steps", default=1))
    if (whole := config.number("batch_size")) is not None:
        setting.batch = int(whole)
    peak = float(config.number("learning_rate", default=5e-5))
    kind = config.take("lr_scheduler", default="cosine")
    arguments = dict(config.take("lr_scheduler_kwargs") or {})
    if (least := config.number("cosine_min_lr_ratio")) is not None:
        arguments["min_lr_ratio"] = least
    name, extra = schedule(kind, arguments, peak, setting, "lr_scheduler")
    setting.point |= {"learning_rate": peak, "schedule": name, "warmup": warmup(config, kind)}
    setting.train |= {
        **extra,
        "optimizer": optimizer(config.take("optimizer", default="adamw_torch"), config, setting, "optimizer"),
    }
    steps, epochs = int(config.number("max_steps", default=-1)), config.number("num_epochs", default=1.0)
    setting.budget = {"steps": steps} if steps > 0 else {"epochs": float(epochs)}
    plugins = config.take("plugins") or []
    if any("liger" in str(plugin).lower() for plugin in plugins):
        setting.train["liger"] = True
        for key in (
            "liger_rope",
            "liger_rms_norm",
            "liger_glu_activation",
            "liger_layer_norm",
            "liger_fused_linear_cross_entropy",
        ):
            config.take(key)
    if other := [plugin for plugin in plugins if "liger" not in str(plugin).lower()]:
        setting.left.append(Left("plugins", other, "only Liger kernels are carried over (train.liger)"))
    with_bf16(config, setting)
    deepspeed = config.take("deepspeed")
    if deepspeed is not None and (stage := zero_stage(deepspeed, path, setting)) is not None:
        setting.train["zero_stage"] = stage
