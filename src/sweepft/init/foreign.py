"""Read the config of another trainer: axolotl, LLaMA-Factory, TRL, or `transformers`' Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweepft.bounded_json import read_json_file
from sweepft.errors import Problem, SpecError
from sweepft.init.axolotl import read_axolotl
from sweepft.init.llama_factory import read_llama_factory
from sweepft.init.setting import Config, Setting
from sweepft.init.trainer import read_arguments, read_state, read_trl
from sweepft.spec.yaml_source import read as read_yaml

_TRL = (
    "dataset_name",
    "datasets",
    "dataset_mixture",
    "use_peft",
    "max_length",
    "max_seq_length",
    "assistant_only_loss",
)


def read_setting(path: Path) -> Setting:
    """The setting of a config file; which tool it belongs to is recognised by its keys.

    Raises:
        SpecError: If it cannot be read, or is the config of none of the tools, or of another task than fine-tuning.
    """
    values = _values(path)
    config = Config(values)
    if "log_history" in values:
        setting = read_state(config, path)
    elif "base_model" in values:
        setting = read_axolotl(config, path)
    elif {
        "finetuning_type",
        "stage",
        "dataset_dir",
        "template",
    } & values.keys() and "model_name_or_path" in values:
        setting = read_llama_factory(config, path)
    elif "model_name_or_path" in values and any(key in values for key in _TRL):
        setting = read_trl(config, path)
    elif {"per_device_train_batch_size", "learning_rate", "num_train_epochs"} & values.keys():
        setting = read_arguments(config, path)
    else:
        rule = "must be a config of axolotl, LLaMA-Factory or TRL, or the arguments or state of transformers' Trainer"
        remedy = "name another file, or give --model and --data instead of --from"
        shown = ", ".join(list(values)[:6])
        raise SpecError([Problem(str(path), "--from", rule, remedy, shown)])
    return setting


def _values(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        try:
            found = read_json_file(path)
        except (OSError, ValueError, RecursionError) as error:
            raise SpecError(
                [Problem(str(path), "--from", f"cannot be read: {error}", "name a JSON file")]
            ) from None
        if not isinstance(found, dict):
            raise SpecError([Problem(str(path), "--from", "must be an object of keys", "name a config file")])
        return found
    return read_yaml(path, str(path)).data
