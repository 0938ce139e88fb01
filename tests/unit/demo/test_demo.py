"""The demo: generated data, tokenizer, base model and spec."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from sweepft.data import TokenSet, check, prepare
from sweepft.demo import make_demo
from sweepft.demo.make import _VERSION
from sweepft.demo.pretrain import train_tokenizer
from sweepft.demo.skills import skill_rows
from sweepft.errors import SweepftError
from sweepft.spec import load


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo"))


def mean_loss(model: Any, path: str) -> float:
    """Nats per target token, row by row."""
    import torch

    tokens = TokenSet(path)
    total = 0.0
    with torch.no_grad():
        for i in range(len(tokens)):
            ids, mask = (torch.from_numpy(array) for array in tokens.row(i))
            logits = model(input_ids=ids[None]).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            total += float(losses[mask[1:]].sum())
    return total / int(tokens.targets.sum())


@pytest.mark.full
def test_pretrain__model_knows_facts_and_not_the_new_skills(demo: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    spec = load(demo)
    prepared = prepare(spec, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(spec.model.path).eval()
    losses = {held.name: mean_loss(model, held.data.path) for held in prepared.validation}
    assert losses["retention"] < 0.5
    assert losses["skills"] > 2.0
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert prepared.vocab_size == model.config.vocab_size
    assert prepared.warnings == ()


def test_demo_spec__is_valid_with_its_rows(demo: Path) -> None:
    spec = load(demo)
    found = check(spec)
    assert spec.search.trials is not None
    assert spec.search.trials >= 12
    assert spec.resources.concurrent_trials == 2
    assert spec.train.budget.samples is not None
    assert found.train_rows >= spec.train.budget.samples
    assert found.warnings == ()
    assert all(source.duplicates == 0 for source in found.sources)


def test_make_demo__reuses_what_is_complete(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_start(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", must_not_start)
    before = {file: file.stat().st_mtime_ns for file in demo.parent.rglob("*") if file.is_file()}
    demo.write_text(demo.read_text() + "# my own line\n")
    assert make_demo(demo.parent) == demo
    assert demo.read_text().endswith("# my own line\n")
    assert all(file == demo or file.stat().st_mtime_ns == at for file, at in before.items())
    with pytest.raises(AssertionError, match="started"):
        make_demo(demo.parent, seed=1)


def test_make_demo__failed_model_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text('#!/bin/sh\nmkdir -p "$3"\ntouch "$3/half"\necho out of luck >&2\nexit 7\n')
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with raises(SweepftError, "demo.model") as caught:
        make_demo(tmp_path / "demo")
    assert "out of luck" in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["demo-data"]


def test_demo_spec__equals_the_one_in_sweeps() -> None:
    root = Path(__file__).parents[3]
    assert (root / "sweeps/demo.yaml").read_text() == (root / "src/sweepft/demo/demo.yaml").read_text()


def test_make_demo__loads_no_torch(demo: Path) -> None:
    code = "import sys; from sweepft.demo import make_demo; make_demo(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(demo.parent)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_make_demo__data_are_seeded(demo: Path) -> None:
    data = demo.parent / "demo-data"
    assert json.loads((data / "made.json").read_text()) == {"version": _VERSION, "seed": 0}
    texts = {
        name: (data / name).read_text() for name in ("skills.jsonl", "skills-test.jsonl", "knowledge.jsonl")
    }
    assert [len(text.splitlines()) for text in texts.values()] == [3300, 200, 473]
    assert not set(texts["skills.jsonl"].splitlines()) & set(texts["skills-test.jsonl"].splitlines())


def test_train_tokenizer__round_trips_and_marks_answers() -> None:
    rows = list(skill_rows({"s": [lambda rng: (f"Say {rng.random()}", "naïve 日本 🙂")]}, 50, 0))
    tokenizer = train_tokenizer(rows, 400)
    assert len(tokenizer) <= 400
    assert tokenizer.decode(tokenizer("naïve 日本\n 🙂 42")["input_ids"]) == "naïve 日本\n 🙂 42"
    assert len(tokenizer("1234")["input_ids"]) == 4, "a digit is a token"
    out = tokenizer.apply_chat_template(
        rows[0]["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    said = [i for i, learned in zip(out["input_ids"], out["assistant_masks"], strict=True) if learned]
    assert tokenizer.decode(said) == "naïve 日本 🙂<|im_end|>"


def test_train_tokenizer__needs_all_bytes() -> None:
    with pytest.raises(ValueError, match="260"):
        train_tokenizer([], 259)
