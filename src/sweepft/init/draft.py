"""A commented spec from a setting: ranges around it, and the setting itself as the first trial.

Ranges are centred on the user's own values, or else on rules of thumb (`sweepft.spec.rate_rules`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from sweepft.bounded_json import read_json_file
from sweepft.data.read import location_of, options_of, read_source
from sweepft.errors import DataError, Problem, SpecError
from sweepft.init.setting import Left, Setting
from sweepft.plan.model_shape import shape_of
from sweepft.spec import FEWEST_STEPS, Model, TrainSource, has_pattern, is_hub_id, rule_of

_AROUND: Final = 8.0  # the range of learning rates reaches this factor below and above the centre
_FULL_BATCH: Final = 128
_LORA_BATCH: Final = 32
_BYTES_PER_WEIGHT: Final = 18  # weights, gradients and states of full fine-tuning in bf16
_GPU_BYTES: Final = 60e9  # of a GPU of 80 GB for them
_TRIALS: Final = 16
_EPOCHS: Final = 2.0
_FORMATS: Final = ("messages", "alpaca", "prompt_completion", "question_answer", "sharegpt", "text")


@dataclass(frozen=True)
class Request:
    """What the user gives beside a foreign config.

    Attributes:
        model: Folder or hub id.
        data: Files, patterns, folders or hub ids.
        gpus: GPUs to use; 0 trains on the CPU.
        method: `lora`, `qlora` or `full`; None for the config's own, else LoRA.
        folder: Where the spec will be written: paths are relative to it where they lie below it.
    """

    model: str | None = None
    data: Sequence[str] = ()
    gpus: int = 0
    method: str | None = None
    folder: Path = Path()


@dataclass
class Draft:
    """A spec in the making.

    Attributes:
        text: The YAML file.
        left: What of a foreign config is not carried over.
        quiet: Its keys without effect on the result.
        notes: What was decided for the user, one sentence each.
    """

    text: str
    left: list[Left]
    quiet: list[str]
    notes: list[str] = field(default_factory=list)


def draft_spec(request: Request, setting: Setting | None = None) -> Draft:
    """The spec for a request, around a foreign setting if there is one.

    Raises:
        SpecError: If model or data are missing.
    """
    own = setting is not None
    setting = setting or Setting("rules of thumb", budget={"epochs": _EPOCHS})
    notes: list[str] = []
    if request.model is not None:
        setting.model = {"path": request.model}
    if request.data:
        setting.sources = [{"path": path} for path in request.data]
    _require(setting)
    _shorten_paths(setting, request.folder)
    if request.method == "full" and "lora" in setting.train:
        setting.left.append(Left("lora", setting.train.pop("lora"), "--full trains all weights"))
    elif request.method in ("lora", "qlora") or (not own and request.method is None):
        lora = setting.train.setdefault(
            "lora", {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
        )
        if request.method == "qlora":
            lora["quantize"] = "nf4"
        elif request.method == "lora" and "quantize" in lora:
            setting.left.append(
                Left("quantize", lora.pop("quantize"), "--lora keeps base weights in 16 bits")
            )
    model = _absolute(setting.model["path"], request.folder)
    _template(setting, Path(model), notes)
    rows = _rows(setting, request.folder, notes)
    ranks = _ranks(setting, request, model)
    _hardware(setting, request, model, notes)
    batch = _LORA_BATCH if "lora" in setting.train else _FULL_BATCH
    if own:
        batch = setting.batch * max(1, request.gpus)
        if request.gpus > 1:
            notes.append(
                f"the first trial's batch size is {batch}: {setting.batch} on each of {request.gpus} GPUs"
            )
    budget = _budget(setting, batch)
    samples = budget.get("samples") or (None if rows is None else math.ceil(budget["epochs"] * rows))
    batch = batch if own else _fitting(batch, samples)
    point, space = _space(setting, batch, samples, ranks, own, Path(model))
    spec = _spec(setting, request, ranks, budget, point, space)
    return Draft(
        _written(spec, setting.tool if own else None, notes), setting.left, sorted(setting.quiet), notes
    )


def _require(setting: Setting) -> None:
    problems = []
    if "path" not in setting.model:
        problems.append(
            Problem(
                "init", "--model", "the base model is needed", "give --model FOLDER, or a hub id org/name"
            )
        )
    if not setting.sources:
        problems.append(
            Problem("init", "--data", "training data are needed", "give --data FILE, or a hub id org/name")
        )
    if problems:
        raise SpecError(problems)


def _absolute(path: str, folder: Path) -> str:
    if is_hub_id(path) and not Path(path).exists() and not (folder / path).exists():
        return path
    return str(path if Path(path).is_absolute() else folder / path)


def _shorten_paths(setting: Setting, folder: Path) -> None:
    """Paths relative to the spec's folder where they lie below it, and absolute otherwise; hub ids stay."""
    for entry in (setting.model, *setting.sources, *setting.validation):
        path = entry.get("path")
        if path is None or (is_hub_id(path) and not Path(path).exists()):
            continue
        if not Path(path).exists() and not has_pattern(path):
            continue  # reported by the check of the spec
        whole = Path(path).absolute()
        entry["path"] = (
            str(whole.relative_to(folder.absolute()))
            if whole.is_relative_to(folder.absolute())
            else str(whole)
        )


def _template(setting: Setting, model: Path, notes: list[str]) -> None:
    """Choose a built-in chat template for a local model that has none."""
    if "chat_template" in setting.model or not model.is_dir():
        return
    own = (model / "chat_template.jinja").is_file() or (model / "chat_template.json").is_file()
    try:
        config = read_json_file(model / "tokenizer_config.json")
    except (OSError, ValueError):
        config = {}
    if not own and not config.get("chat_template"):
        setting.model["chat_template"] = "plain"
        notes.append("the model has no chat template: the built-in one `plain` is used")


def _rows(setting: Setting, folder: Path, notes: list[str]) -> int | None:
    """Training rows, if all are on this machine; chooses the format of rows that fit several."""
    total = 0
    for source in setting.sources:
        path = _absolute(source["path"], folder)
        if not Path(path).exists() and not has_pattern(path):
            return None
        found = TrainSource.model_validate({**source, "path": path})
        try:
            total += _count(found)
        except DataError as error:
            if error.keys != ("columns",) or found.format is not None:
                return None  # reported with all others when the spec is checked
            for name in _FORMATS:
                chosen = found.model_copy(update={"format": name})
                try:
                    total += _count(chosen)
                except DataError:
                    continue
                source["format"] = name
                notes.append(f"{source['path']}: its columns fit several formats; it is read as {name}")
                break
            else:
                return None
    held = sum(entry.get("fraction", 0.0) for entry in setting.validation) or 0.05
    return max(1, round(total * (1 - held)))


def _count(source: TrainSource) -> int:
    """Rows of a source.

    Raises:
        DataError: If it cannot be read as it is described.
    """
    rows = len(read_source(location_of(source), options_of(source)).rows)
    return min(rows, source.limit or rows)


def _ranks(setting: Setting, request: Request, model: str) -> int:
    """GPUs of a trial: as few as hold the states of all weights; 1 for adapters and on the CPU."""
    if request.gpus <= 1 or "lora" in setting.train:
        return 1
    shape = shape_of(Model(path=model))
    need = (shape.parameters if shape is not None else 0) * _BYTES_PER_WEIGHT
    return next((n for n in _divisors(request.gpus) if need / n <= _GPU_BYTES), request.gpus)


def _divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def _hardware(setting: Setting, request: Request, model: str, notes: list[str]) -> None:
    """Training options that depend on the machine, where the setting does not fit it."""
    train = setting.train
    if request.gpus == 0:
        for key in ("liger", "compile"):
            if train.pop(key, None):
                setting.left.append(Left(key, True, "needs GPUs, and --gpus is 0"))
        if train.get("optimizer", {}).get("name") == "adamw_8bit":
            train["optimizer"] = {**train["optimizer"], "name": "adamw"}
            setting.left.append(
                Left("optimizer", "adamw_8bit", "needs GPUs, and --gpus is 0: adamw is taken")
            )
        if train.get("precision", "fp32") != "fp32":
            notes.append("fp32 is used on the CPU")
        train["precision"] = "fp32"
    train.setdefault("precision", "bf16")
    if train.get("optimizer", {}).get("name") == "adafactor":
        train |= {"precision": "fp32", "zero_stage": 0}
    elif train["precision"] == "bf16" and train.get("zero_stage", 1) == 0:
        train["zero_stage"] = 1
        notes.append("zero_stage 1 instead of 0, which bf16 needs here; its numbers are the same")
    train.setdefault("zero_stage", 2 if request.gpus > 1 and "lora" not in train else 1)
    lora = train.get("lora", {})
    if train["zero_stage"] == 3 and ("quantize" in lora or "modules_to_save" in lora):
        train["zero_stage"] = 2
        notes.append("zero_stage 2 instead of 3, at which adapters have neither quantize nor modules_to_save")
    if train.get("compile") and train["zero_stage"] == 3:
        setting.left.append(Left("torch_compile", train.pop("compile"), "is not available at zero_stage 3"))
    length = setting.data.setdefault("max_length", 2048)
    try:
        config = read_json_file(Path(model) / "config.json")
        positions = (config.get("text_config") or config).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        positions = None
    if isinstance(positions, int) and positions < length:
        setting.data["max_length"] = positions
        notes.append(f"max_length is {positions}, as many positions as the model has")


def _budget(setting: Setting, batch: int) -> dict[str, Any]:
    if "steps" in setting.budget:
        return {"samples": max(1, int(setting.budget["steps"])) * batch}
    return dict(setting.budget)


def _fitting(batch: int, samples: int | None) -> int:
    """A batch size with enough steps: halved until there are."""
    while samples is not None and batch > 4 and samples / batch < 2 * FEWEST_STEPS:
        batch //= 2
    return batch


def _space(
    setting: Setting, batch: int, samples: int | None, ranks: int, own: bool, model: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first trial, and the ranges around it."""
    micro = setting.train.get("micro_batch", 1)
    unit = (micro if isinstance(micro, int) else 1) * ranks
    if batch % unit:  # another number of GPUs than the micro-batch was made for
        setting.train["micro_batch"] = "auto"
        unit = ranks
    sizes = sorted({size for size in (batch // 4, batch, batch * 4) if size and size % unit == 0} | {batch})
    if samples is not None:
        sizes = [size for size in sizes if size == batch or samples / size >= FEWEST_STEPS]
    lora = setting.train.get("lora")
    point = {"batch_size": batch, **setting.point}
    if "learning_rate" not in point:
        rule = rule_of(Model(path=str(model)), lora is not None)
        point["learning_rate"] = _round(rule.rate(batch)) if rule else (2e-4 if lora else 2e-5)
    rate = float(point["learning_rate"])
    point = {
        "batch_size": batch,
        "learning_rate": rate,
        "warmup": point.get("warmup", 0.03),
        "schedule": point.get("schedule", "linear"),
    }
    space: dict[str, Any] = {
        "batch_size": {"choice": sizes},
        "learning_rate": {"log_uniform": [_round(rate / _AROUND), _round(rate * _AROUND)]},
        "warmup": {"choice": _with(point["warmup"], [0.0, 0.1])},
        "schedule": {"choice": _with(point["schedule"], ["constant", "linear", "cosine"])},
    }
    if lora is not None:
        rank = lora.pop("rank")
        point["lora.rank"] = rank
        space["lora.rank"] = {"choice": sorted({max(1, rank // 4), rank, rank * 4})}
    return point, space


def _with(value: Any, others: Sequence[Any]) -> list[Any]:
    return [value, *(other for other in others if other != value)]


def _round(rate: float) -> float:
    """A rate with two significant digits."""
    return float(f"{rate:.1e}")


def _spec(
    setting: Setting,
    request: Request,
    ranks: int,
    budget: Mapping[str, Any],
    point: Mapping[str, Any],
    space: Mapping[str, Any],
) -> dict[str, Any]:
    validation = setting.validation or [{"name": "validation", "fraction": 0.05}]
    slots = max(1, request.gpus // ranks) if request.gpus else 2
    train = dict(setting.train)
    first = ("budget", "micro_batch", "precision", "zero_stage")
    train = {"budget": dict(budget), "micro_batch": train.get("micro_batch", "auto"), **train}
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(setting.model["path"]).name).strip("-._")[:60]
        + "-sweep",
        "model": setting.model,
        "data": {"train": setting.sources, "validation": validation, **setting.data, "overlap": "drop"},
        "train": {key: train[key] for key in (*first, *(k for k in train if k not in first))},
        "search": {"trials": _TRIALS, "sampler": "tpe", "baseline": dict(point), "space": dict(space)},
        "early_stop": {"rule": "calibrated"},
        "resources": {
            "workers_per_trial": ranks,
            "gpus_per_worker": 1 if request.gpus else 0,
            "concurrent_trials": slots,
        },
    }


_COMMENTS: Final = {
    "data": "Rows are read by their columns: sweepft data shows what they become.",
    "data.validation": "The objective is the loss on these rows, unless a section `objective` names a task.",
    "data.overlap": "training rows that are also in a validation set are left out",
    "data.max_length": "tokens of a row; with over_length: drop longer ones are left out, with truncate cut off",
    "train": "The same for every trial.",
    "train.budget": "of each trial, whatever its batch size",
    "train.micro_batch": "rows of a forward pass; auto finds the largest that fits",
    "search": "What is swept. The first trial is {first}.",
    "search.baseline": "the setting to beat, tried first; start_with can add presets (sweepft presets)",
    "search.space": "ranges around it",
    "early_stop": "Trials that will not win are stopped early; a sample of them is trained on to measure the errors.",
    "resources": "One trial takes workers_per_trial x gpus_per_worker GPUs.",
}


def _written(spec: Mapping[str, Any], tool: str | None, notes: Sequence[str]) -> str:
    """The spec as YAML with comments."""
    first = f"the setting read from {tool}" if tool else "a rule of thumb"
    lines = [
        "# Written by sweepft init. Check it with sweepft validate and sweepft plan, try it with sweepft run --tiny."
    ]
    lines += [f"# Note: {note}." for note in notes]
    for name, value in spec.items():
        if isinstance(value, Mapping):
            comment = _COMMENTS.get(name, "").format(first=first)
            lines += ["", *([f"# {comment}"] if comment else []), f"{name}:"]
            for key, inner in value.items():
                lines += _key(key, inner, 1, _COMMENTS.get(f"{name}.{key}"))
        else:
            lines.append(f"{name}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _key(key: str, value: Any, depth: int, comment: str | None) -> list[str]:
    pad, behind = "  " * depth, f"    # {comment}" if comment else ""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [f"{pad}{key}:{behind}", *(f"{pad}  - {_flow(item)}" for item in value)]
    if key == "space":
        return [f"{pad}{key}:{behind}", *(f"{pad}  {name}: {_flow(inner)}" for name, inner in value.items())]
    return [f"{pad}{key}: {_flow(value)}{behind}"]


def _flow(value: Any) -> str:
    """A value on one line, with numbers as people write them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, float):
        return _number(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=False).strip()
    return text.removesuffix("\n...").strip()


def _number(value: float) -> str:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return text
