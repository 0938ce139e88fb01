"""``best/train.py`` where the base model is unusual: pickled weights, another end of turn, added tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.memorised import base_model, best_of, chat_rows, sweep_spec

UNTIDY = {"do_sample": False, "temperature": 0.6}
BARE = {"template": None, "eos": "</s>", "rename": {"<|im_start|>": "<|other|>", "<|im_end|>": "</s>"}}


def run_script(best: Path, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(best / "train.py"), "--out", str(out), "--samples", "16"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def as_pickle(folder: Path) -> None:
    """Replace the weights by a pickle file, as old models have them."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.full
def test_train_script__pickled_weights_and_another_end_of_turn(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", eos="<|endoftext|>", generation=UNTIDY)
    as_pickle(base)
    best, prepared = best_of(sweep_spec(base, chat_rows(), allow_pickle=["pytorch_model.bin"]), tmp_path)
    ran = run_script(best, tmp_path / "out")
    assert ran.returncode == 0, ran.stderr[-3000:]
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == list(prepared.end_ids) == [3, 1]
    assert saved["pad_token_id"] == prepared.pad_id
    script = best / "train.py"
    script.write_text(
        script.read_text().replace("ALLOW_PICKLE = ['pytorch_model.bin']", "ALLOW_PICKLE = ['other.bin']")
    )
    assert "does not name all of ['pytorch_model.bin']" in run_script(best, tmp_path / "out").stderr


@pytest.mark.full
def test_train_script__keeps_the_marked_template(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", **BARE)
    best, _ = best_of(sweep_spec(base, chat_rows(), chat_template="chatml"), tmp_path)
    ran = run_script(best, tmp_path / "out")
    assert ran.returncode == 0, ran.stderr[-3000:]
    for name in ("chat_template.jinja", "training_chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_text() == (best / name).read_text()


@pytest.mark.full
def test_train_script__weights_of_turns(tmp_path: Path) -> None:
    """The first loss is the weighted sum over the weighted count of the first batch."""
    import torch
    from transformers import AutoModelForCausalLM

    from sweepft.data import TokenSet

    rows = chat_rows()
    for i, row in enumerate(rows):
        row["messages"][-1]["weight"] = [0.25, 1.0, 3.0][i % 3]
    base = base_model(tmp_path / "base", **BARE)
    best, prepared = best_of(sweep_spec(base, rows, chat_template="plain"), tmp_path)
    ran = run_script(best, tmp_path / "out")
    assert ran.returncode == 0, ran.stderr[-3000:]
    logged = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    data = TokenSet(prepared.train.path)
    assert (data.weighted, len(data)) == (True, 8), "one batch of 8 is all rows"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    total, plain = 0.0, 0.0
    with torch.no_grad():
        for ids, mask in map(data.weighted_row, range(len(data))):
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[1:]), reduction="none")
            total += (each * torch.from_numpy(mask[1:])).sum().item()
            plain += each[torch.from_numpy(mask[1:] != 0)].sum().item()
    weighted = total / data.weights.sum()
    assert logged[0]["loss"] == pytest.approx(weighted, abs=1e-4)
    assert abs(weighted - plain / data.targets.sum()) > 1e-3
