"""Hyperparameters that loggers write beside a run's curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sweepft.bounded_json import read_json
from sweepft.replay.sources.cells import flatten


def as_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters as columns ``config/NAME``; lists as JSON, so that they are equal where their items are."""
    flat = flatten({k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in params.items()})
    return {f"config/{k}": v for k, v in flat.items() if isinstance(v, str | int | float | bool)}


def read_hparams(run: Path) -> dict[str, Any]:
    """Those of Lightning's ``hparams.yaml`` or Ray's ``params.json`` in a run's folder, as columns; else none."""
    for name, read in (("hparams.yaml", yaml.safe_load), ("params.json", read_json)):
        try:
            found = read((run / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # no such file, or objects of Python in it
        if isinstance(found, dict):
            return as_config(found)
    return {}
