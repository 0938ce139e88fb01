"""``trl.yaml`` in the hands of TRL: its own parser takes every key.

Runs where TRL is installed (``pip install trl``).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_write import SCHEDULES, facts_of

from sweepft.export.recipes import deepspeed_config
from sweepft.export.trl import trl_config, trl_differences

trl = pytest.importorskip("trl", reason="TRL is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

LORA = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    "settings",
    [
        *({"schedule": schedule, "warmup": 0.1} for schedule in SCHEDULES),
        {"precision": "bf16"},
        {"gradient_checkpointing": True},
        {"optimizer": {"name": "sgd"}},
        {"optimizer": {"name": "adafactor"}, "zero_stage": 0},
        {"lora": LORA},
        {"lora": {"rank": 4}},
        {"lora": {"rank": 4, "quantize": "nf4", "scaling": "rslora", "modules_to_save": ["lm_head"]}},
    ],
    ids=str,
)
def test_trl_config__parser_accepts_every_key(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(tmp_path / "run", **settings)
    monkeypatch.chdir(tmp_path)
    Path("deepspeed.json").write_text(json.dumps(deepspeed_config(facts)))
    Path("trl.yaml").write_text(yaml.safe_dump(trl_config(facts)))
    parts = (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig)
    command = ["--config", "trl.yaml", "--use_cpu", "true"]
    _, training, model, data = trl.TrlParser(parts).parse_args_and_config(
        command, fail_with_unknown_args=True
    )
    assert (training.max_steps, training.learning_rate) == (facts.train_config.planned_steps, 3e-3)
    assert data.datasets[0].data_files == "/data/chats.jsonl.gz"
    adapter = trl.get_peft_config(model)
    assert (adapter is not None) == ("lora" in settings)
    if settings.get("lora") == LORA:
        assert (adapter.r, adapter.lora_alpha, set(adapter.target_modules)) == (4, 8, {"q_proj", "v_proj"})
    if settings.get("lora", {}).get("quantize"):
        four_bits = trl.get_quantization_config(model)
        assert (four_bits.bnb_4bit_quant_type, four_bits.bnb_4bit_use_double_quant) == ("nf4", True)
        assert (adapter.use_rslora, adapter.modules_to_save) == (True, ["lm_head"])


def test_trl_differences__name_what_the_templates_do(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "run")
    tokens = facts.prepared.tokens.model_copy(update={"appended": "<|user|>", "tool_template": True})
    sources = tuple(source.model_copy(update={"tools": True}) for source in facts.prepared.sources)
    prepared = facts.prepared.model_copy(update={"tokens": tokens, "sources": sources})
    plain, others = (" ".join(trl_differences(one)) for one in (facts, replace(facts, prepared=prepared)))
    for words in ("put <|user|> behind a last answer", "instead of tool_use"):
        assert words in others
        assert words not in plain
