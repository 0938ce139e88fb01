"""The one builder of specs for tests: a minimal valid spec, and what a test changes in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweepft.spec import SweepSpec, from_dict

_MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "model": {"path": "org/model"},
    "data": {"train": [{"path": "org/rows"}], "validation": [{"name": "own", "fraction": 0.1}]},
    "train": {"budget": {"samples": 64}, "micro_batch": 2},
    "search": {"trials": 3, "space": {"batch_size": {"choice": [4, 8]}}},
}
_FIXED = {"batch_size": 8, "learning_rate": 1e-3}


def spec_dict(values: Mapping[str, Any] | None = None, /, **sections: Any) -> dict[str, Any]:
    """A valid spec as plain data. It names hub ids, so no file is read.

    Batch size and learning rate are fixed where they are neither given nor swept.

    Args:
        values: Dotted key to value, e.g. ``{"train.budget.samples": 96}``; None removes the key.
        sections: Section to changes of its keys (each replaced as a whole; None removes it), or a top-level value.
    """
    data = copy.deepcopy(_MINIMAL)
    for name, changes in sections.items():
        whole = data.get(name, {}) | changes if isinstance(changes, Mapping) else changes
        data[name] = copy.deepcopy(whole)
    for key, value in (values or {}).items():
        *parents, last = key.split(".")
        section = data
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = copy.deepcopy(value)
    data["train"] = {
        key: value for key, value in _FIXED.items() if key not in data["search"]["space"]
    } | data["train"]
    return _without_none(data)


def spec(values: Mapping[str, Any] | None = None, /, **sections: Any) -> SweepSpec:
    """:func:`spec_dict`, validated."""
    return from_dict(spec_dict(values, **sections))


def on_files(model_dir: Path, data_file: Path) -> dict[str, Any]:
    """The values for :func:`spec_dict` that name a real model and real rows."""
    return {"model.path": str(model_dir), "data.train": [{"path": str(data_file)}]}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(child) for key, child in value.items() if child is not None}
    return value
