"""Specs of small real sweeps for end-to-end tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from support.specs import spec_dict
from sweepft.driver.start import start_sweep
from sweepft.driver.sweep import SweepResult
from sweepft.spec import SweepSpec, load

_CACHE = Path(tempfile.mkdtemp(prefix="sweepft-test-cache-"))
"""Token cache of all sweeps in the session, so that the same data are tokenised once."""
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)


def write_spec(folder: Path, model_dir: Path, data_file: Path, **sections: dict[str, Any]) -> Path:
    """Write a spec with a tiny model and data file; ``sections`` replace keys of its sections."""
    defaults: dict[str, Any] = {
        "model": {"path": str(model_dir)},
        "data": {
            "train": [{"path": str(data_file)}],
            "validation": [{"name": "own", "fraction": 0.15}],
            "max_length": 128,
        },
        "train": {"budget": {"samples": 96}, "micro_batch": 4, "precision": "fp32"},
        "search": {
            "trials": 6,
            "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
            "space": {
                "batch_size": {"choice": [8, 16]},
                "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]},
                "schedule": {"choice": ["constant", "cosine"]},
            },
        },
        "early_stop": {"rule": "median", "rungs": [0.25, 0.5], "min_steps": 2, "min_peers": 2},
        "resources": {"concurrent_trials": 2},
    }
    for name, changes in sections.items():
        defaults[name] = defaults.get(name, {}) | changes if isinstance(changes, dict) else changes
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(spec_dict(**defaults)))
    return file


def run_spec(spec: Path | SweepSpec, out: Path, overrides: tuple[str, ...] = ()) -> SweepResult:
    """Run a spec in this process's Ray session, with its progress written to a file."""
    loaded = spec if isinstance(spec, SweepSpec) else load(spec, overrides)
    out.mkdir(exist_ok=True)
    _share(_CACHE, out / "cache")
    with (out.parent / f"{out.name}.txt").open("w") as console:
        try:
            return start_sweep(loaded, out, console=Console(file=console))
        finally:
            _share(out / "cache", _CACHE)


def _share(source: Path, target: Path) -> None:
    """Give ``target`` the token sets of ``source`` that it lacks, as hard links where they can be: a link to a
    folder is refused.
    """
    for entry in source.iterdir() if source.is_dir() else ():
        if entry.is_dir() and not (target / entry.name).exists():
            shutil.copytree(entry, target / entry.name, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)
