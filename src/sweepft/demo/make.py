"""Writes a whole demo into a folder: data, base model and spec.

The idea to keep in mind: what is there and finished is not made again, so the second demo starts at once. The
model is pre-trained in a process of its own (it needs torch) and appears under its name only when complete.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, Final

from sweepft.demo.skills import NEW_SKILLS, knowledge_rows, skill_rows
from sweepft.errors import SweepftError

_VERSION: Final = 1  # change it whenever the same seed would give other data or another model
_TRAIN_ROWS: Final = 3300
_TEST_ROWS: Final = 200


def make_demo(folder: str | Path, seed: int = 0) -> Path:
    """Make the demo in `folder`, as far as it is not there yet.

    Args:
        folder: Made if missing. It then holds ``demo.yaml``, ``demo-data/`` (skills to train on, knowledge to
            retain, a sealed test set) and ``demo-model/``.
        seed: Of data and model. Another seed in the same folder makes both anew; ``demo.yaml`` is yours to
            edit and stays.
    Returns:
        The spec, ready for a sweep.
    Raises:
        SweepftError: If the base model could not be made.
    """
    target = Path(folder).resolve()
    data, model, spec = target / "demo-data", target / "demo-model", target / "demo.yaml"
    stamp = json.dumps({"version": _VERSION, "seed": seed})
    data.mkdir(parents=True, exist_ok=True)
    if not _stands(data, stamp):
        skills = list(skill_rows(NEW_SKILLS, _TRAIN_ROWS + _TEST_ROWS, seed + 1))
        Random(seed).shuffle(skills)  # small skills run out early: spread them evenly
        _write_rows(data / "skills.jsonl", skills[:_TRAIN_ROWS])
        _write_rows(data / "skills-test.jsonl", skills[_TRAIN_ROWS:])
        _write_rows(data / "knowledge.jsonl", knowledge_rows(seed))
        (data / "made.json").write_text(stamp)
    if not _stands(model, stamp):
        _make_model(model, seed, stamp)
    if not spec.exists():
        spec.write_text(files("sweepft.demo").joinpath("demo.yaml").read_text())
    return spec


def _stands(folder: Path, stamp: str) -> bool:
    made = folder / "made.json"
    return made.is_file() and made.read_text() == stamp


def _write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _make_model(model: Path, seed: int, stamp: str) -> None:
    temporary = model.with_name(f".tmp-{model.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        command = [sys.executable, "-m", "sweepft.demo.pretrain", str(temporary), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            tail = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise SweepftError(
                f"the demo's base model could not be made (exit status {done.returncode}):\n{tail}"
            )
        (temporary / "made.json").write_text(stamp)
        if model.exists():
            shutil.rmtree(model)
        temporary.rename(model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
