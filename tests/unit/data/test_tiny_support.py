"""The shared test helpers produce the data they document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.tiny import tiny_data, tiny_model, tiny_rows


def test_tiny__fixtures_are_real_files(tiny_model_dir: Path, tiny_data_file: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    rows = [json.loads(line) for line in tiny_data_file.read_text().splitlines()]
    assert len(rows) == 96 == len({json.dumps(r) for r in rows})
    ids = tokenizer.apply_chat_template(rows[0]["messages"], return_tensors="pt", return_dict=True)
    logits = model(input_ids=ids["input_ids"]).logits
    assert logits.shape[-1] == len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("arch", ["llama", "granite", "mistral", "gpt_bigcode"])
def test_tiny__same_seed_same_weights(tmp_path: Path, arch: str) -> None:
    one = tiny_model(tmp_path / "a", arch=arch, seed=3)
    two = tiny_model(tmp_path / "b", arch=arch, seed=3)
    other = tiny_model(tmp_path / "c", arch=arch, seed=4)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (one, two, other)]
    assert weights[0] == weights[1] != weights[2]


def test_tiny__data_is_seeded(tmp_path: Path) -> None:
    assert tiny_rows(20, 5) == tiny_rows(20, 5) != tiny_rows(20, 6)
    assert len(tiny_data(tmp_path, rows=7, seed=1).read_text().splitlines()) == 7
