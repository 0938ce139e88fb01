"""Code that comes with a base model runs only if the spec allows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweepft.spec import Model
from sweepft.training.config import EngineConfig
from sweepft.training.model import load_model

MARK = """
from transformers import LlamaForCausalLM
open({mark!r}, "w").close()
class Theirs(LlamaForCausalLM):
    pass
"""


@pytest.fixture
def theirs(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model whose code, when it runs, leaves a mark."""
    folder = tmp_path / "theirs"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "modeling_theirs.py").write_text(MARK.format(mark=str(tmp_path / "it-ran")))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_theirs.Theirs"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plan(folder: Path, **changes: bool) -> EngineConfig:
    return EngineConfig(str(folder), "", budget_samples=1, micro_batch=1, scratch="", **changes)


def test_remote_code__off_by_default(theirs: Path, tmp_path: Path) -> None:
    assert Model(path="org/name").trust_remote_code is False
    model = load_model(plan(theirs))
    assert type(model).__module__.startswith("transformers.")
    assert not (tmp_path / "it-ran").exists()


def test_remote_code__model_that_needs_it_is_refused(theirs: Path, tmp_path: Path) -> None:
    config = json.loads((theirs / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "modeling_theirs.C", **config["auto_map"]}}
    (theirs / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(plan(theirs))
    assert not (tmp_path / "it-ran").exists()


def test_remote_code__runs_where_trusted(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    load_model(plan(theirs, trust_remote_code=True))
    assert (tmp_path / "it-ran").exists()
