"""Values that several trainers write in the same way: schedules, optimizers, precision, places of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json_file
from sweepft.init.setting import Config, Left, Setting

_SCHEDULES: Final = {
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "inverse_sqrt": "inverse_sqrt",
    "warmup_stable_decay": "wsd",
    "polynomial": "polynomial",
}
_NEAREST: Final = {
    "cosine_with_restarts": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
    "rex": "cosine",
    "one_cycle": "cosine",
}
_EIGHT_BIT: Final = ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit")
_LOUD: Final = {
    "neftune_noise_alpha": "no noise is added to embeddings",
    "label_smoothing_factor": "losses are not smoothed",
    "group_by_length": "the order of samples is the same for every trial",
    "resume_from_checkpoint": "each trial starts from the base model",
    "fp16": "16-bit training is in bf16",
    "torch_dtype": "see train.precision",
    "dtype": "see train.precision",
    "attn_implementation": "transformers' default is used",
    "use_dora": "adapters are plain LoRA",
    "load_in_4bit": "only base weights under adapters are quantized (train.lora)",
    "load_in_8bit": "base weights stay in 16 bits; train.lora.quantize: nf4 quantizes them to 4",
    "fsdp": "trials train with DeepSpeed ZeRO (train.zero_stage)",
    "fsdp_config": "trials train with DeepSpeed ZeRO (train.zero_stage)",
    "init_adapters": "each trial starts from the base model",
}
PACKING: Final = "samples are not joined; train.micro_batch: {tokens: N} packs them without changing a number"
WORDS: Final[Mapping[str, str]] = _LOUD
"""Why a key is not carried over, for keys that several tools have."""
_QUIET_STARTS: Final = (
    *(
        "logging",
        "log_",
        "save",
        "eval_",
        "evaluation_",
        "report",
        "wandb",
        "mlflow",
        "trackio",
        "comet",
        "hub_",
        "push_to_hub",
    ),
    *(
        "dataloader",
        "ddp",
        "output",
        "run_name",
        "overwrite",
        "load_best",
        "metric_for",
        "greater_is",
        "use_mps",
    ),
    *(
        "preprocessing",
        "dataset_num_proc",
        "disable_tqdm",
        "local_rank",
        "tf32",
        "include_",
        "skip_memory",
        "past_index",
    ),
    *(
        "tpu",
        "debug",
        "no_cuda",
        "use_cpu",
        "full_determinism",
        "jit",
        "ray",
        "do_",
        "plot",
        "parallelism",
        "trackio",
    ),
    *(
        "per_device_eval",
        "early_stopping",
        "auto_find",
        "remove_unused",
        "length_column",
        "label_names",
        "accelerator",
    ),
    *("torchdynamo", "torch_compile_", "torch_empty", "average_tokens", "prediction_loss", "half_precision"),
    *(
        "optim_target",
        "gradient_checkpointing_kwargs",
        "fp16_",
        "bf16_full",
        "batch_eval",
        "restore",
        "ignore_data",
    ),
)


def is_quiet(key: str) -> bool:
    """Whether a key is about logging, saving and the like, which sweepft does in its own way."""
    return key.startswith(_QUIET_STARTS)


def schedule(
    name: Any, arguments: Mapping[str, Any], rate: float, setting: Setting, key: str
) -> tuple[str, dict[str, Any]]:
    """A schedule of `transformers`, and keys of `train` that belong to it."""
    text = str(name).removeprefix("SchedulerType.").lower()
    extra: dict[str, Any] = {}
    if "min_lr_rate" in arguments or "min_lr_ratio" in arguments:
        extra["min_lr_ratio"] = float(arguments.get("min_lr_rate", arguments.get("min_lr_ratio")))
    elif "min_lr" in arguments:
        extra["min_lr_ratio"] = float(arguments["min_lr"]) / rate
    if text == "polynomial":
        end, power = float(arguments.get("lr_end", 1e-7)), float(arguments.get("power", 1.0))
        extra["min_lr_ratio"] = end / rate
        if power == 1.0:
            return "linear", extra
        extra["power"] = power
    known = _SCHEDULES.get(text)
    if known is None:
        known = _NEAREST.get(text, "linear")
        setting.left.append(Left(key, name, f"sweepft has no such schedule; {known} is taken"))
    return known, extra


def warmup(config: Config, kind: Any) -> Any:
    """Warmup as a fraction or in steps. `constant` of `transformers` has none."""
    steps, ratio = config.number("warmup_steps"), config.number("warmup_ratio", default=0.0)
    if str(kind).lower().removeprefix("schedulertype.") == "constant":
        return 0.0
    if steps:
        return {"steps": int(steps)} if steps >= 1 else float(steps)
    return float(ratio or 0.0)


def optimizer(name: Any, config: Config, setting: Setting, key: str) -> dict[str, Any]:
    """The optimizer with its hyperparameters; betas and eps have PyTorch's defaults."""
    text = str(name).lower().removeprefix("optimizernames.")
    betas = [config.number("adam_beta1", default=0.9), config.number("adam_beta2", default=0.999)]
    adam = {"betas": betas, "eps": config.number("adam_epsilon", default=1e-8)}
    decay = {"weight_decay": config.number("weight_decay", default=0.0)}
    arguments = str(config.take("optim_args", default=""))
    if text == "sgd":
        given = dict(part.split("=", 1) for part in arguments.replace(" ", "").split(",") if "=" in part)
        return {"name": "sgd", "momentum": float(given.get("momentum", 0.0)), **decay}
    if text == "adafactor":
        return {"name": "adafactor", **decay}
    if text in _EIGHT_BIT:
        return {"name": "adamw_8bit", **adam, **decay}
    if not text.startswith(("adamw_torch", "adamw_hf", "adamw_apex", "paged_adamw")) and text != "adamw":
        setting.left.append(Left(key, name, "sweepft has no such optimizer; adamw is taken"))
    return {"name": "adamw", **adam, **decay}


def zero_stage(file: Any, path: Path, setting: Setting) -> int | None:
    """The ZeRO stage of a DeepSpeed config: of the file, or of its name."""
    import re

    if isinstance(file, Mapping):
        return (file.get("zero_optimization") or {}).get("stage")
    found = next((p for p in (Path(str(file)), path.parent / str(file)) if p.is_file()), None)
    if found is not None:
        try:
            config = read_json_file(found)
            return int((config.get("zero_optimization") or {}).get("stage", 0))
        except (ValueError, AttributeError, TypeError):
            pass
    named = re.search(r"(?:zero|z|ds)_?([0-3])", Path(str(file)).name.lower())
    if named:
        return int(named[1])
    setting.left.append(Left("deepspeed", file, "the file is not there; see train.zero_stage"))
    return None


def place(name: str, path: Path, builder: str | None = None) -> str:
    """A data file or model as the spec can find it: a relative path is one of the config's folder, if it is there."""
    local = path.parent / name
    return str(local.resolve()) if not Path(name).is_absolute() and local.exists() else name


def lora(
    rank: Any,
    alpha: Any,
    dropout: Any,
    targets: Any,
    *,
    stabilized: Any = False,
    saved: Any = None,
    quantized: bool = False,
) -> dict[str, Any]:
    """The `lora` section.

    Args:
        rank, alpha, dropout: As in peft.
        targets: Names of layers, as a list or joined by commas, or all linear ones.
        stabilized: Whether adapters are scaled by alpha / sqrt(rank).
        saved: Names of layers that are trained whole, as a list or joined by commas.
        quantized: Whether the base weights are in 4 bits.
    """
    section = {"rank": int(rank), "alpha": float(alpha), "dropout": float(dropout)}
    every = targets in ("all-linear", "all")
    more = {"target_modules": "all-linear" if every else _names(targets)}
    more |= {"scaling": "rslora"} if stabilized else {}
    more |= {"modules_to_save": _names(saved)} if saved else {}
    more |= {"quantize": "nf4"} if quantized else {}
    return {**section, **more}


def _names(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    return [str(part).strip() for part in parts if str(part).strip()]


def four_bits(config: Config, setting: Setting, names: Sequence[str]) -> None:
    """The format of 4-bit base weights, where it is another one than `nf4`.

    Args:
        config, setting: The foreign config, and what is made of it.
        names: The keys of the config that have it.
    """
    kind = config.take(*names, default="nf4")
    if kind != "nf4":
        setting.left.append(Left(names[0], kind, "base weights are quantized to nf4"))


def with_bf16(config: Config, setting: Setting) -> None:
    """Precision, gradient checkpointing, kernels and the seed, which have the same names everywhere."""
    bf16 = config.take("bf16", default=False)
    half = config.has("fp16") and config.take("fp16") is True
    if half:
        setting.left.append(Left("fp16", True, "16-bit training is in bf16"))
    setting.train["precision"] = "bf16" if bf16 in (True, "auto", "true", "full") or half else "fp32"
    if config.take("gradient_checkpointing") in (True, "true", "offload"):
        setting.train["gradient_checkpointing"] = True
    if config.take("use_liger_kernel", "liger_kernel", "enable_liger_kernel"):
        setting.train["liger"] = True
    if config.take("torch_compile") is True:
        setting.train["compile"] = True
    seed = config.take("seed")
    setting.train["seed"] = seed if isinstance(seed, int) else 42
    clipping = config.number("max_grad_norm", default=1.0)
    setting.train["gradient_clipping"] = float(clipping)
