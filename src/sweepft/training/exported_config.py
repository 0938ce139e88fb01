"""The ``config.json`` of an exported folder: true of the weights beside it, and readable by older programs.

transformers 5 writes some of a model's settings under new names only, and copies settings about weights that it never
loaded. Each change made here is kept only if transformers reads the same settings from the file as before.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json, read_json_file
from sweepft.data.weight_files import own_file
from sweepft.files import atomic_write
from sweepft.training.config import EngineConfig

Fields = dict[str, Any]

_OLD_ROPE: Final = re.compile(r"rope|rotary|^partial_")
"""Names of keys for rotary embeddings, which transformers 5 reads and writes as ``rope_parameters``."""
FURTHER_TOKENS: Final = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
"""Keys that count layers which predict further tokens (MTP)."""


def complete_config(folder: Path, config: EngineConfig, weights: Iterable[str]) -> None:
    """Rewrite ``config.json`` as ``save_pretrained`` left it.

    - Keys of the base model for rotary embeddings and ``torch_dtype`` are kept beside the new ones: programs that know
      only the old names would take a default, without an error.
    - Layers that predict further tokens are counted as 0 if the export has no weights of them.

    Args:
        folder: The exported folder.
        config: Of the sweep.
        weights: Names of the exported weights in memory.
    """
    names = list(weights)
    base = _base_fields(config)
    _try(folder, config, lambda fields: _keep_old_keys(fields, base))
    _try(folder, config, lambda fields: _count_layers(fields, names))


def counted_layers(fields: Mapping[str, Any]) -> dict[str, int]:
    """Keys above 0 of `FURTHER_TOKENS` in a config, also of its text part."""
    found = {key: fields[key] for key in FURTHER_TOKENS if isinstance(fields.get(key), int) and fields[key]}
    for inner in fields.values():
        if isinstance(inner, Mapping):
            found |= counted_layers(inner)
    return found


def _base_fields(config: EngineConfig) -> Fields:
    found = own_file(config.model_path, config.revision, "config.json")
    fields: Fields = {} if found is None else read_json_file(found)
    return fields


def _keep_old_keys(fields: Fields, base: Mapping[str, Any]) -> set[str]:
    """Add what the base model has under old names; returns the names."""
    added = {key for key in base.keys() - fields.keys() if _OLD_ROPE.search(key)}
    fields.update({key: copy.deepcopy(base[key]) for key in added})
    if "torch_dtype" in base and "dtype" in fields and "torch_dtype" not in fields:
        fields["torch_dtype"] = fields["dtype"]
        added.add("torch_dtype")
    for key, inner in base.items():
        if isinstance(inner, Mapping) and isinstance(fields.get(key), dict) and not _OLD_ROPE.search(key):
            added |= _keep_old_keys(fields[key], inner)
    return added


def _count_layers(fields: Fields, weights: list[str]) -> set[str]:
    """Count layers as 0 that have no weights; returns the names of the keys."""
    text = fields.get("text_config") or fields
    first = text.get("num_hidden_layers")
    layer = re.compile(rf"\b(mtp|nextn)|\.layers\.{first}\." if isinstance(first, int) else r"\b(mtp|nextn)")
    if any(layer.search(name) for name in weights):
        return set()
    return _set_to_zero(fields)


def _set_to_zero(fields: Fields) -> set[str]:
    changed = set(counted_layers(fields))
    fields.update(dict.fromkeys(changed & fields.keys(), 0))
    for inner in fields.values():
        if isinstance(inner, dict):
            _set_to_zero(inner)
    return changed


def _try(folder: Path, config: EngineConfig, change: Callable[[Fields], set[str]]) -> None:
    """Change the file, unless another setting would then be read otherwise."""
    path = folder / "config.json"
    before = path.read_text(encoding="utf-8")
    fields = read_json(before)
    names = change(fields)
    if not names:
        return
    known = _read(folder, config)
    atomic_write(path, json.dumps(fields, indent=2, sort_keys=True) + "\n", mode=0o666)
    try:
        same = _is_read(_read(folder, config), known, names)
    except Exception:  # whatever a config class raises at what it does not expect
        same = False
    if not same:
        atomic_write(path, before, mode=0o666)


def _read(folder: Path, config: EngineConfig) -> Fields:
    """All settings as transformers reads them."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    fields: Fields = read.to_dict()
    return fields


def _is_read(found: Any, known: Any, names: set[str]) -> bool:
    """Whether all settings are the known ones, but for added keys and counts of layers that are not there."""
    if not isinstance(known, Mapping) or not isinstance(found, Mapping):
        return bool(found == known)
    if not known.keys() <= found.keys() <= known.keys() | names:
        return False
    inner = {key: set() if key == "rope_parameters" else names for key in known}
    return all(key in FURTHER_TOKENS or _is_read(found[key], known[key], inner[key]) for key in known)
