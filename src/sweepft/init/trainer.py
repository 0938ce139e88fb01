"""Configs of `transformers`' Trainer: TRL's ``trl sft`` YAML, ``TrainingArguments``, and a trainer state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

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

_BUILDERS: Final = ("json", "csv", "parquet", "arrow", "text")
_TRL_WORDS: Final = {
    **WORDS,
    "packing": PACKING,
    "packing_strategy": "see packing",
    "padding_free": "see packing",
    "eos_token": "the end of turns is read from the chat template",
    "lora_task_type": "language models only",
    "chat_template": "save it as a file and name it in model.chat_template",
    "loss_type": "the loss is cross-entropy",
    "data_seed": "data.seed chooses rows, train.seed orders them",
    "lr_scheduler_kwargs": "see train.min_lr_ratio, decay_fraction and power",
}


def read_trl(config: Config, path: Path) -> Setting:
    """A config of ``trl sft --config``. Keys that it leaves out have TRL's defaults."""
    setting = Setting("TRL")
    setting.model["path"] = place(str(config.take("model_name_or_path")), path)
    _model(config, setting, path)
    setting.sources = _sources(config, path)
    _losses(config, setting)
    setting.data["max_length"] = int(config.number("max_length", "max_seq_length", default=1024))
    setting.data["over_length"] = "truncate"
    _training(config, setting, path, rate=2e-5)
    if config.take("use_peft"):
        setting.train["lora"] = lora(
            config.take("lora_r", default=16),
            config.take("lora_alpha", default=32),
            config.take("lora_dropout", default=0.05),
            config.take("lora_target_modules", default="all-linear"),
            stabilized=config.take("use_rslora"),
            saved=config.take("lora_modules_to_save"),
            quantized=bool(config.take("load_in_4bit")),
        )
        four_bits(config, setting, ["bnb_4bit_quant_type"])
    else:
        config.take("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
        config.take("use_rslora", "lora_modules_to_save", "bnb_4bit_quant_type")
    config.take("use_bnb_nested_quant", "bnb_4bit_quant_storage")
    test = config.take("dataset_test_split")
    if test not in (None, "test"):
        setting.left.append(Left("dataset_test_split", test, "name it as an entry of data.validation"))
    config.leave(setting, _TRL_WORDS, (), is_quiet)
    return setting


def read_arguments(config: Config, path: Path) -> Setting:
    """``TrainingArguments``, as JSON or YAML. Model and data are not part of them."""
    setting = Setting("transformers' TrainingArguments")
    if (model := config.take("model_name_or_path", "model_name")) is not None:
        setting.model["path"] = place(str(model), path)
    _training(config, setting, path, rate=5e-5)
    config.leave(setting, _TRL_WORDS, (), is_quiet)
    return setting


def read_state(config: Config, path: Path) -> Setting:
    """A ``trainer_state.json``: peak rate, warmup and schedule are read from its log."""
    setting = Setting("a trainer_state.json")
    log = [
        row
        for row in config.take("log_history", default=[])
        if isinstance(row, dict) and "learning_rate" in row
    ]
    steps = int(config.number("max_steps", "global_step", default=0))
    rates = [(int(row["step"]), float(row["learning_rate"])) for row in log]
    setting.batch = int(config.number("train_batch_size", default=8))
    setting.left.append(
        Left(
            "train_batch_size",
            setting.batch,
            "accumulation and number of GPUs are not in the state: correct batch_size in search.baseline",
        )
    )
    setting.point["learning_rate"] = max((rate for _, rate in rates), default=5e-5)
    kind, warm = _shape(rates, steps)
    setting.point |= {"schedule": kind, "warmup": warm}
    setting.train |= {"optimizer": {"name": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.0}, "seed": 42}
    epochs = config.number("num_train_epochs")
    setting.budget = {"epochs": float(epochs)} if epochs else {"steps": steps}
    words = {"epoch": "the run's progress", "best_metric": "of that run", "total_flos": "of that run"}
    quiet = {
        *words,
        "best_model_checkpoint",
        "best_global_step",
        "trial_name",
        "trial_params",
        "stateful_callbacks",
    }
    config.leave(
        setting,
        {},
        quiet | {"is_hyper_param_search", "is_local_process_zero", "is_world_process_zero"},
        is_quiet,
    )
    return setting


def _shape(rates: Sequence[tuple[int, float]], steps: int) -> tuple[str, Any]:
    """Schedule and warmup of logged rates: the schedule that fits best behind the peak."""
    if not rates:
        return "linear", 0.0
    peak = max(rate for _, rate in rates)
    top = next(step for step, rate in rates if rate >= 0.999 * peak)
    first = rates[0][0]
    warm = top if top > first and peak > 0 else 0
    behind = [
        ((step - warm) / max(1, steps - warm), rate / peak) for step, rate in rates if step >= warm and peak
    ]
    shapes: dict[str, Callable[[float], float]] = {
        "linear": lambda x: max(0.0, 1 - x),
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * min(1.0, x))),
        "constant": lambda x: 1.0,
    }
    errors = {name: sum(abs(f(x) - y) for x, y in behind) for name, f in shapes.items()}
    return min(errors, key=lambda name: errors[name]), {"steps": warm} if warm else 0.0


def _model(config: Config, setting: Setting, path: Path) -> None:
    for key, names in (("revision", ("model_revision",)), ("trust_remote_code", ("trust_remote_code",))):
        value = config.take(*names)
        if value not in (None, False, "main"):
            setting.model[key] = value
    template = config.take("chat_template_path")
    if template is not None:
        file = next((p for p in (path.parent / str(template), Path(str(template))) if p.is_file()), None)
        if file is not None:
            setting.model["chat_template"] = str(file.resolve())
        else:
            setting.left.append(
                Left("chat_template_path", template, "the file is not there; see model.chat_template")
            )


def _sources(config: Config, path: Path) -> list[dict[str, Any]]:
    """Data sets by one of the three ways in which TRL names them."""
    mixture = config.take("dataset_mixture") or {}
    entries = config.take("datasets") or mixture.get("datasets") or []
    split = config.take("dataset_train_split", default="train")
    name, subset = config.take("dataset_name"), config.take("dataset_config")
    if name is not None:
        entries = [{"path": name, "name": subset, "split": split}]
    found = []
    for entry in entries:
        source = str(entry.get("path") or entry.get("id"))
        files = entry.get("data_files")
        if source in _BUILDERS and files:
            for file in [files] if isinstance(files, str) else files:
                found.append({"path": place(str(file), path)})
            continue
        made: dict[str, Any] = {"path": place(source, path)}
        config_name = entry.get("name") or entry.get("config")
        if config_name not in (None, "default"):
            made["config"] = config_name
        if entry.get("split") not in (None, "train"):
            made["split"] = entry["split"]
        found.append(made)
    return found


def _losses(config: Config, setting: Setting) -> None:
    """What is learned. sweepft learns answers, and every token of a plain text."""
    field = config.take("dataset_text_field")
    if field not in (None, "text"):
        for source in setting.sources:
            source["columns"] = {"text": field}
    completion = config.take("completion_only_loss")
    assistant = config.take("assistant_only_loss", default=False)
    if not assistant and completion is False and field is None:
        setting.left.append(
            Left("completion_only_loss", False, "prompts are not learned; see train_on of a source")
        )


def _training(config: Config, setting: Setting, path: Path, *, rate: float) -> None:
    """The part of TrainingArguments that a spec has keys for."""
    micro = int(config.number("per_device_train_batch_size", default=8))
    setting.train["micro_batch"] = micro
    setting.batch = micro * int(config.number("gradient_accumulation_steps", default=1))
    peak = float(config.number("learning_rate", default=rate))
    kind = config.take("lr_scheduler_type", default="linear")
    arguments = config.take("lr_scheduler_kwargs") or {}
    name, extra = schedule(kind, arguments, peak, setting, "lr_scheduler_type")
    steps = int(config.number("max_steps", default=-1))
    if name == "wsd":
        decay = arguments.get("num_decay_steps")
        if decay and steps > 0:
            extra["decay_fraction"] = decay / steps
    setting.point |= {"learning_rate": peak, "schedule": name, "warmup": warmup(config, kind)}
    setting.train |= {
        **extra,
        "optimizer": optimizer(config.take("optim", default="adamw_torch"), config, setting, "optim"),
    }
    setting.budget = (
        {"steps": steps} if steps > 0 else {"epochs": float(config.number("num_train_epochs", default=3.0))}
    )
    config.take("num_train_epochs")
    with_bf16(config, setting)
    deepspeed = config.take("deepspeed")
    if deepspeed is not None and (stage := zero_stage(deepspeed, path, setting)) is not None:
        setting.train["zero_stage"] = stage
