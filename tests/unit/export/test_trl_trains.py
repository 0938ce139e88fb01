"""TRL itself trains ``best/trl.yaml``, and the loss of its first step is the trial's.

The batch is the whole data set, so the order of the rows does not matter.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest

from support.memorised import ANSWERS, CHATML, QUESTIONS, base_model, best_of, chat_rows, sweep_spec
from sweepft.data import TokenSet
from sweepft.spec import from_dict

pytest.importorskip("trl", reason="TRL is not installed")

MARKED = CHATML.replace(
    "+ m['content'] + '<|im_end|>\\n' }}",
    "}}{%- if m['role'] == 'assistant' %}{%- generation %}{{- m['content'] + '<|im_end|>' }}{%- endgeneration %}"
    "{%- else %}{{- m['content'] + '<|im_end|>' }}{%- endif %}{{- '\\n' }}",
)
PAIRS = list(zip(QUESTIONS, ANSWERS, strict=True))
TEXTS = [{"text": f"{q} {a}"} for q, a in PAIRS]
STRINGS = [{"prompt": q + " ", "completion": a} for q, a in PAIRS]
MESSAGES = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in chat_rows()]
WITH_MORE = [row | {"id": i, "text": "not read", "domain": "hats"} for i, row in enumerate(chat_rows())]
BARE = {
    "template": None,
    "eos": "</s>",
    "rename": {"<|im_start|>": "<|other|>", "<|im_end|>": "</s>"},
    "adds_bos": True,
}
LORA = {"rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"]}


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


FILES: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": as_lines,
    "rows.ndjson": as_lines,
    "lines.json": as_lines,
    "list.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "rows.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "list.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "rows.parquet": as_parquet,
}
# name: base model, rows, keys of `model`, files, LoRA, whether the first loss is the trial's
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any], tuple[str, ...], Any, bool]] = {
    "own-template-with-marks": ({"template": MARKED, "eos": "<|endoftext|>"}, chat_rows(), {}, ("rows.jsonl",), None, True),
    "own-template-without-marks": ({}, chat_rows(), {}, ("rows.jsonl",), None, False),
    "plain": ({"template": None, "eos": "</s>"}, chat_rows(), {"chat_template": "plain"}, ("rows.ndjson",), None, True),
    "plain-adds-bos": (BARE, chat_rows(), {"chat_template": "plain"}, ("list.json",), None, True),
    "chatml": ({"template": None}, chat_rows(), {"chat_template": "chatml"}, ("list.json.gz",), None, True),
    "chatml-adds-tokens": (BARE, chat_rows(), {"chat_template": "chatml"}, ("rows.jsonl",), None, False),
    "lora": ({"template": MARKED}, chat_rows(), {}, ("rows.parquet",), LORA, True),
    "text": (BARE, TEXTS, {}, ("rows.jsonl.gz",), None, True),
    "text-without-bos": ({"template": None}, TEXTS, {}, ("rows.parquet",), None, True),
    "strings": ({"template": MARKED}, STRINGS, {}, ("lines.json",), None, False),
    "prompt-of-messages": ({"template": MARKED}, MESSAGES, {}, ("rows.jsonl",), None, True),
    "other-columns": ({"template": MARKED}, WITH_MORE, {}, ("rows.jsonl",), None, True),
    "two-files": ({"template": MARKED}, chat_rows(), {}, ("list.json", "rows.parquet"), None, True),
}  # fmt: skip


def finished_sweep(case: str, folder: Path) -> tuple[Path, float]:
    """``best/`` of a sweep over real files with real prepared data, and the base model's loss of all rows."""
    base, rows, model, names, lora, _ = CASES[case]
    spec = sweep_spec(base_model(folder / "base", **base), rows, lora=lora, **model).to_dict()
    half = len(rows) // len(names)
    for i, name in enumerate(names):
        (folder / name).write_bytes(FILES[name](rows[i * half : (i + 1) * half]))
    chosen = {"format": "messages"} if case == "other-columns" else {}
    spec["data"]["train"] = [{"path": str(folder / name), **chosen} for name in names]
    best, prepared = best_of(from_dict(spec), folder)
    return best, loss_of_all(folder / "base", prepared.train.path)


def loss_of_all(model: Path, tokens: str) -> float:
    """Nats per target token of all rows, one at a time, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    rows, lm = TokenSet(tokens), AutoModelForCausalLM.from_pretrained(model)
    largest = max(int(rows.row(i)[0].max()) for i in range(len(rows)))
    if lm.get_input_embeddings().num_embeddings <= largest:
        lm.resize_token_embeddings(largest + 1)
    total = count = 0
    with torch.no_grad():
        for i in range(len(rows)):
            ids, mask = (torch.tensor(column) for column in map(list, rows.row(i)))
            losses = torch.nn.functional.cross_entropy(
                lm(ids[None]).logits[0, :-1], ids[1:], reduction="none"
            )
            total += losses[mask[1:]].sum().item()
            count += int(mask[1:].sum())
    return total / count


def trained_by_trl(folders: list[Path]) -> dict[str, Any]:
    """Loss of the first step by folder, or the error."""
    script = Path(__file__).parents[2] / "support" / "trl_runs.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(script), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def check(cases: list[str], tmp_path: Path) -> None:
    bests = {case: finished_sweep(case, tmp_path / case) for case in cases}
    found = trained_by_trl([best for best, _ in bests.values()])
    wrong = {}
    for case, (best, expected) in bests.items():
        loss = found[str(best)]
        if isinstance(loss, str) or (CASES[case][-1] and abs(loss - expected) > 2e-3):
            wrong[case] = (loss, expected)
    assert not wrong, "\n".join(f"{case}: {loss}, not {expected}" for case, (loss, expected) in wrong.items())


@pytest.mark.parametrize("case", ["plain", "chatml-adds-tokens"])
def test_write_best__names_no_place_of_the_machine_but_where_it_trains(case: str, tmp_path: Path) -> None:
    best, _ = finished_sweep(case, tmp_path)
    naming = {
        path.relative_to(best).as_posix()
        for path in best.rglob("*")
        if path.is_file() and str(tmp_path).encode() in path.read_bytes()
    }
    assert naming == {"spec.yaml", "train.py", "trl.yaml"}
    for path in best.glob("*/chat_template.jinja"):
        assert path.read_text() == (best / "training_chat_template.jinja").read_text()
    jinja2.Environment().parse((best / "chat_template.jinja").read_text())


def test_trl__says_what_it_cannot_do(tmp_path: Path) -> None:
    spec = sweep_spec(base_model(tmp_path / "base", **BARE), chat_rows(), lora=LORA, chat_template="chatml")
    best, _ = best_of(spec, tmp_path)
    for file in ("trl.yaml", "README.md"):
        assert "TRL 1.16 fails at that" in " ".join((best / file).read_text().split())


def test_trl__trains_chats_by_a_built_in_template(tmp_path: Path) -> None:
    check(["plain"], tmp_path)


@pytest.mark.full
def test_trl__trains_every_form_and_file(tmp_path: Path) -> None:
    check([case for case in CASES if case != "plain"], tmp_path)
