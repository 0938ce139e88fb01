from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweepft.errors import Problem, SpecError
from sweepft.spec import SweepSpec, load

HERE = Path(__file__).parent
NO_WEIGHTS = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file without tensors."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with valid.yaml and every file it names, as far as a spec can see them."""
    (tmp_path / "valid.yaml").write_text((HERE / "valid.yaml").read_text())
    for name, files in {
        "model": ("config.json", "tokenizer.json", "model.safetensors"),
        "model_without_tokenizer": ("config.json", "tokenizer_config.json", "model.safetensors"),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(NO_WEIGHTS if file.endswith(".safetensors") else b"{}")
    for file in ("train.jsonl", "validation.jsonl", "test.jsonl"):
        (tmp_path / file).write_text('{"text": "a row"}\n')
    return tmp_path


@pytest.fixture
def problems(place: Path) -> Callable[..., list[Problem]]:
    """What is wrong with valid.yaml under some overrides; empty when nothing is."""

    def found(*overrides: str) -> list[Problem]:
        try:
            load(place / "valid.yaml", overrides)
        except SpecError as error:
            return list(error.problems)
        return []

    return found


@pytest.fixture
def loaded(place: Path) -> Callable[..., SweepSpec]:
    """valid.yaml under some overrides."""
    return lambda *overrides: load(place / "valid.yaml", overrides)
