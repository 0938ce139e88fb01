"""Configs of LLaMA-Factory, with the data sets that its ``dataset_info.json`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json_file
from sweepft.errors import Problem, SpecError
from sweepft.init.common import (
    PACKING,
    WORDS,
    four_bits,
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
    "template": "the tokenizer's own chat template is used; see model.chat_template",
    "quantization_bit": "only base weights under adapters are quantized, and to 4 bits (train.lora.quantize: nf4)",
    "train_on_prompt": "prompts are not learned; see train_on of a source",
    "packing": PACKING,
    "neat_packing": PACKING,
    "loraplus_lr_ratio": "both matrices of an adapter have the same rate",
    "pissa_init": "adapters start at zero",
    "flash_attn": "transformers' default is used",
    "rope_scaling": "the model's own is used",
    "mix_strategy": "rows of all sources are mixed in one order",
    "interleave_probs": "see data.mixture",
    "streaming": "rows are tokenised once per sweep",
    "freeze_trainable_layers": "all weights are trained, or adapters",
}
_COLUMNS: Final = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "messages": "conversations",
}
_ALPACA: Final = {"instruction": "instruction", "input": "input", "output": "output"}


def read_llama_factory(config: Config, path: Path) -> Setting:
    """A config of ``llamafactory-cli train``; keys that it leaves out have LLaMA-Factory's defaults.

    Raises:
        SpecError: If it is no supervised fine-tuning of all weights or with LoRA.
    """
    setting = Setting("LLaMA-Factory")
    stage, kind = config.take("stage", default="sft"), config.take("finetuning_type", default="lora")
    if stage not in ("sft", "pt"):
        rule = f"the stage is {stage}, and sweepft sweeps supervised fine-tuning only"
        raise SpecError([Problem(str(path), "stage", rule, "name a config of stage: sft", stage)])
    if kind not in ("full", "lora"):
        setting.left.append(Left("finetuning_type", kind, "all weights are trained"))
    setting.model["path"] = place(str(config.take("model_name_or_path")), path)
    for key, name in (("revision", "model_revision"), ("trust_remote_code", "trust_remote_code")):
        if (value := config.take(name)) not in (None, False, "main"):
            setting.model[key] = value
    if config.take("enable_thinking") is False:  # by default templates think
        setting.model["chat_template_kwargs"] = {"enable_thinking": False}
    _data(config, setting, path)
    _training(config, setting, path)
    rank = config.number("lora_rank", default=8)
    alpha = config.number("lora_alpha", default=2 * rank)
    dropout, targets = config.number("lora_dropout", default=0.0), config.take("lora_target", default="all")
    stabilized, saved = config.take("use_rslora"), config.take("additional_target")
    if kind == "lora":
        quantized = _quantized(config, setting)
        setting.train["lora"] = lora(
            rank, alpha, dropout, targets, stabilized=stabilized, saved=saved, quantized=quantized
        )
    quiet = (
        "overwrite_cache",
        "cache_path",
        "tokenized_path",
        "use_fast_tokenizer",
        "low_cpu_mem_usage",
        "adapter_name",
    )
    config.leave(setting, _WORDS, quiet, is_quiet)
    return setting


def _quantized(config: Config, setting: Setting) -> bool:
    """Whether the base weights are in 4 bits; other numbers of bits are left."""
    if config.number("quantization_bit") is None:
        return False
    method = config.take("quantization_method", default="bnb")
    four_bits(config, setting, ["quantization_type"])
    config.take("double_quantization")
    bits = int(config.number("quantization_bit"))
    if bits != 4:
        why = "base weights stay in 16 bits; train.lora.quantize: nf4 quantizes them to 4"
        setting.left.append(Left("quantization_bit", bits, why))
    elif method not in ("bnb", "bitsandbytes"):
        setting.left.append(Left("quantization_method", method, "bitsandbytes quantizes to nf4"))
    return bits == 4


def _training(config: Config, setting: Setting, path: Path) -> None:
    micro = int(config.number("per_device_train_batch_size", default=8))
    setting.train["micro_batch"] = micro
    setting.batch = micro * int(config.number("gradient_accumulation_steps", default=1))
    peak = float(config.number("learning_rate", default=5e-5))
    kind = config.take("lr_scheduler_type", default="linear")
    name, extra = schedule(kind, config.take("lr_scheduler_kwargs") or {}, peak, setting, "lr_scheduler_type")
    setting.point |= {"learning_rate": peak, "schedule": name, "warmup": warmup(config, kind)}
    setting.train |= {
        **extra,
        "optimizer": optimizer(config.take("optim", default="adamw_torch"), config, setting, "optim"),
    }
    steps, epochs = (
        int(config.number("max_steps", default=-1)),
        config.number("num_train_epochs", default=3.0),
    )
    setting.budget = {"steps": steps} if steps > 0 else {"epochs": float(epochs)}
    with_bf16(config, setting)
    deepspeed = config.take("deepspeed")
    if deepspeed is not None and (stage := zero_stage(deepspeed, path, setting)) is not None:
        setting.train["zero_stage"] = stage


def _data(config: Config, setting: Setting, path: Path) -> None:
    setting.data |= {"max_length": int(config.number("cutoff_len", default=2048)), "over_length": "truncate"}
    folder = config.take("dataset_dir", default="data")
    limit, history = config.take("max_samples"), config.take("mask_history")
    system = config.take("default_system")
    for place_in, key in ((setting.sources, "dataset"), (setting.validation, "eval_dataset")):
        names = config.take(key, default=[])
        for name in names.split(",") if isinstance(names, str) else names:
            source = _described(name.strip(), str(folder), path, setting, key)
            if source is None:
                continue
            more = {"limit": limit, "system": system, "train_on": "last" if history else None}
            place_in.append(source | {name: value for name, value in more.items() if value is not None})
    for i, entry in enumerate(setting.validation):
        entry["name"] = f"validation-{i + 1}"
    size = config.number("val_size", default=0)
    if size and not setting.validation:
        if size < 1:
            setting.validation.append({"name": "validation", "fraction": float(size)})
        else:
            setting.left.append(
                Left("val_size", size, "a validation set is a fraction of the rows; see data.validation")
            )


def _described(name: str, folder: str, path: Path, setting: Setting, key: str) -> dict[str, Any] | None:
    """A data set by its entry in ``dataset_info.json``."""
    infos = [base / folder / "dataset_info.json" for base in (path.parent, Path(), *path.absolute().parents)]
    file = next((info for info in infos if info.is_file()), None)
    if file is None:
        setting.left.append(
            Left(key, name, f"there is no {folder}/dataset_info.json that says what it is: give --data")
        )
        return None
    entry = read_json_file(file).get(name)
    if not isinstance(entry, Mapping):
        setting.left.append(Left(key, name, f"{file} does not list it: give --data"))
        return None
    source: dict[str, Any] = {}
    if "file_name" in entry:
        source["path"] = str((file.parent / str(entry["file_name"])).resolve())
    else:
        source["path"] = str(entry.get("hf_hub_url") or entry.get("ms_hub_url") or name)
    source |= {
        new: entry[old]
        for old, new in (("subset", "config"), ("split", "split"))
        if entry.get(old) not in (None, "train")
    }
    columns = {_COLUMNS[k]: v for k, v in (entry.get("columns") or {}).items() if k in _COLUMNS}
    tags = entry.get("tags") or {}
    if entry.get("formatting", "alpaca") == "sharegpt":
        columns.setdefault("conversations", "conversations")
        columns |= {"role": tags.get("role_tag", "from"), "content": tags.get("content_tag", "value")}
        roles = {tags.get(f"{k}_tag"): role for k, role in _TAGS.items()}
        if own := {name: role for name, role in roles.items() if name is not None}:
            source["roles"] = own
        source["format"] = "sharegpt"
    else:
        columns = _ALPACA | columns if columns else {}
        source["format"] = "alpaca"
    plain = {
        k: v for k, v in columns.items() if k != v and (k, v) not in (("role", "from"), ("content", "value"))
    }
    if plain:
        source["columns"] = plain
    if entry.get("ranking"):
        setting.left.append(Left(key, name, "preferences are not trained on"))
    return source


_TAGS: Final = {"user": "user", "assistant": "assistant", "system": "system", "observation": "tool"}
