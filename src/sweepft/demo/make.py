"""Create the demo in a folder: data, base model and spec.

Complete parts are reused, so a second demo starts at once. The model is pre-trained in a child process, which imports
torch, and is renamed into place when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, Final

from sweepft.children import run_module
from sweepft.demo.skills import NEW_SKILLS, knowledge_rows, skill_rows
from sweepft.errors import SweepftError
from sweepft.files import atomic_write

_VERSION: Final = 1  # increase it if the same seed gives different data or another model
_TRAIN_ROWS: Final = 3300
_TEST_ROWS: Final = 200


def make_demo(folder: str | Path, seed: int = 0) -> Path:
    """Create what is missing of the demo in ``folder`` and return the path of its spec.

    Args:
        folder: Created if missing. It gets ``demo.yaml``, ``demo-data/`` (skills to train on, knowledge to retain, a
            test set) and ``demo-model/``.
        seed: Seed of data and model; another seed replaces both. An existing ``demo.yaml`` is kept.

    Raises:
        SweepftError: With key ``demo.model`` if the base model cannot be created.
    """
    target = Path(folder).resolve()
    data, model, spec = target / "demo-data", target / "demo-model", target / "demo.yaml"
    stamp = json.dumps({"version": _VERSION, "seed": seed})
    data.mkdir(parents=True, exist_ok=True)
    if not _is_current(data, stamp):
        skills = list(skill_rows(NEW_SKILLS, _TRAIN_ROWS + _TEST_ROWS, seed + 1))
        Random(seed).shuffle(skills)  # skills with few questions come early: spread them
        _write_rows(data / "skills.jsonl", skills[:_TRAIN_ROWS])
        _write_rows(data / "skills-test.jsonl", skills[_TRAIN_ROWS:])
        _write_rows(data / "knowledge.jsonl", knowledge_rows(seed))
        atomic_write(data / "made.json", stamp, mode=0o666)
    if not _is_current(model, stamp):
        _make_model(model, seed, stamp)
    if not spec.exists():
        atomic_write(
            spec, files("sweepft.demo").joinpath("demo.yaml").read_text(encoding="utf-8"), mode=0o666
        )
    return spec


def _is_current(folder: Path, stamp: str) -> bool:
    made = folder / "made.json"
    return made.is_file() and made.read_text(encoding="utf-8") == stamp


def _write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows), mode=0o666)


def _make_model(model: Path, seed: int, stamp: str) -> None:
    temporary = model.with_name(f".tmp-{model.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        done = run_module("sweepft.demo.pretrain", str(temporary), str(seed))
        if done.returncode != 0:
            raise SweepftError(
                f"the demo's base model could not be created (exit status {done.returncode}):\n{done.tail}",
                key="demo.model",
            )
        atomic_write(temporary / "made.json", stamp, mode=0o666)
        if model.exists():
            shutil.rmtree(model)
        temporary.rename(model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
