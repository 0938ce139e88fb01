"""Hostile specs and overrides: an accepted spec that reads back as itself, or problems with place, key, rule and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.fuzzing import CASES, FULL, HOSTILE, check, damage, mutate, run_cases
from support.specs import spec_dict
from sweepft.errors import SpecError
from sweepft.spec import dump, load
from sweepft.spec.fields import leaf_fields
from sweepft.spec.sweep import SweepSpec

KEYS = (
    *leaf_fields(SweepSpec),
    "data.train.0.path",
    "data.train.²",
    "search.space.learning_rate",
    "a.b.c",
    "",
    ".",
    "x" * 300,
)


def good(folder: Path) -> dict[str, Any]:
    model, rows = folder / "model", folder / "rows.jsonl"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (model / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    rows.write_text('{"text": "a"}\n')
    return spec_dict(
        {
            "model.path": str(model), "data.train": [{"path": str(rows), "domain": "a"}],
            "data.test": [{"name": "t", "path": "org/rows"}], "search.start_with": [{"batch_size": 4}],
            "search.space": {"batch_size": {"choice": [4, 8]}, "learning_rate": {"log_uniform": [1e-5, 1e-2]}},
            "evaluate": {"tasks": ["gsm8k"], "mt_bench": {"questions": str(rows), "judge": "j"}, "replicates": {"top": 1}},
            "track": {"tensorboard": True, "mlflow": {}}, "mirror.uri": "file:///backup/x", "train.lora": {"rank": 4},
            "early_stop": {"rule": "calibrated", "rungs": [0.25, 0.5]}, "checkpoint": {"minutes": 3},
        }
    )  # fmt: skip


@pytest.mark.parametrize("cases", [100, pytest.param(CASES, marks=FULL)])
def test_fuzz__specs(cases: int, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    sound = good(tmp_path / "files")
    file = tmp_path / "sweep.yaml"

    def case(random: Random) -> None:
        how, overrides = random.random(), []
        text = json.dumps(mutate(sound, random) if how < 0.6 else sound).encode()
        if 0.6 <= how < 0.8:
            text = damage(dump_as_yaml(sound), random)
        elif how >= 0.8:
            overrides = [_override(random) for _ in range(random.choice((1, 1, 3)))]
        file.write_bytes(text)
        spec = load(file, overrides)
        file.write_text(dump(spec))
        assert load(file, recorded=True).to_dict() == spec.to_dict()

    found = run_cases(cases, cases, tmp_path, case)
    check(found, cases)


def dump_as_yaml(data: dict[str, Any]) -> bytes:
    from sweepft.spec.yaml_source import to_yaml

    return to_yaml(data).encode()


def _override(random: Random) -> str:
    value = random.choice(HOSTILE)
    try:
        text = json.dumps(value)
    except ValueError:
        text = ".nan"
    return random.choice(
        (f"{random.choice(KEYS)}={text}", f"{random.choice(KEYS)}={value}", random.choice(KEYS), f"={text}")
    )


def test_fuzz__finds_what_it_looks_for(tmp_path: Path) -> None:
    """The limits above are limits: a traceback, an error without remedy and a write outside are all reported."""

    def case(random: Random) -> None:
        what = random.random()
        if what < 0.3:
            raise KeyError("x")
        if what < 0.6:
            raise SpecError([])
        (tmp_path / "outside").write_text("x")

    (tmp_path / "inside").mkdir()
    found = run_cases(30, 1, tmp_path / "inside", case)
    for part in ("KeyError", "not whole", f"open {tmp_path.resolve()}/outside"):
        assert any(part in key for key in found), part
