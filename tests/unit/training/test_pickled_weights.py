"""Base weights load from safetensors; from a pickle file only if allowed by name, and without running its code."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sweepft.training.config import EngineConfig
from sweepft.training.model import load_model


class Payload:
    """What a hostile pickle would do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def pickled(tiny_model_dir: Path, tmp_path: Path) -> EngineConfig:
    """A model folder whose weights are a pickle file."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return EngineConfig(str(folder), "", budget_samples=1, micro_batch=1, scratch="")


def test_load_model__refuses_an_unnamed_pickle(pickled: EngineConfig) -> None:
    with pytest.raises((OSError, ValueError)):
        load_model(pickled)
    with pytest.raises(ValueError, match=r"allow_pickle does not name all of pytorch_model\.bin"):
        load_model(replace(pickled, allow_pickle=("other.bin",)))


def test_load_model__allowed_pickle_gives_the_same_weights(
    pickled: EngineConfig, tiny_model_dir: Path
) -> None:
    found = load_model(replace(pickled, allow_pickle=("pytorch_model.bin",))).state_dict()
    for name, tensor in load_file(tiny_model_dir / "model.safetensors").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_load_model__runs_no_code_of_a_pickle(pickled: EngineConfig, tmp_path: Path) -> None:
    target = tmp_path / "run-by-a-pickle"
    torch.save({"model.embed_tokens.weight": Payload(target)}, Path(pickled.model_path) / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|pickle"):
        load_model(replace(pickled, allow_pickle=("pytorch_model.bin",)))
    assert not target.exists()
