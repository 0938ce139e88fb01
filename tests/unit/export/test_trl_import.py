"""The exported ``trl.yaml`` of a winner comes back as the same setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_trl import LORA
from test_write import SCHEDULES, facts_of, trial_rates

from sweepft.export.recipes import deepspeed_config
from sweepft.export.trl import trl_config
from sweepft.init import Request, draft_spec, read_setting
from sweepft.spec import load
from sweepft.training.lr_schedules import lr_at


@pytest.mark.parametrize(
    "settings",
    [
        *({"schedule": schedule, "warmup": 0.1} for schedule in SCHEDULES),
        {"precision": "bf16", "gradient_checkpointing": True, "zero_stage": 3},
        {"optimizer": {"name": "sgd", "momentum": 0.8, "weight_decay": 0.1}},
        {"optimizer": {"name": "adafactor"}, "zero_stage": 0},
        {"optimizer": {"name": "adamw_8bit", "betas": [0.8, 0.99], "eps": 1e-7}, "seed": 7},
        {"lora": LORA},
        {"lora": {"rank": 4, "dropout": 0.1}},
        {"lora": {"rank": 4, "quantize": "nf4", "scaling": "rslora", "modules_to_save": ["lm_head"]}},
    ],
    ids=str,
)
def test_exported_trl_config__is_read_back_as_the_same_setting(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    facts = facts_of(tmp_path / "run", **settings)
    (tmp_path / "deepspeed.json").write_text(json.dumps(deepspeed_config(facts)))
    (tmp_path / "trl.yaml").write_text(yaml.safe_dump(trl_config(facts)))
    setting = read_setting(tmp_path / "trl.yaml")
    assert [left.key for left in setting.left] == ["chat_template_path"]  # it is not written here
    draft = draft_spec(Request(gpus=facts.spec.resources.workers_per_trial, folder=tmp_path), setting)
    (tmp_path / "sweep.yaml").write_text(draft.text)
    found = load(tmp_path / "sweep.yaml", check_files=False)
    assert found.model.path == facts.spec.model.path
    assert [source.path for source in found.data.train] == ["/data/chats.jsonl.gz"]
    assert found.data.max_length == facts.spec.data.max_length
    old = facts.train_config
    new = found.train_config(dict(found.search.baseline), found.train.budget.samples or 0)
    assert new.planned_steps == old.planned_steps
    assert [lr_at(step, new) for step in range(new.planned_steps)] == pytest.approx(
        trial_rates(facts), rel=1e-9
    )
    same = (
        "batch_size",
        "precision",
        "zero_stage",
        "gradient_clipping",
        "gradient_checkpointing",
        "seed",
        "lora",
    )
    assert {key: getattr(new, key) for key in same} == {key: getattr(old, key) for key in same}
    used = {"sgd": ("momentum",), "adafactor": ()}.get(old.optimizer.name, ("betas", "eps"))
    for key in ("name", "weight_decay", *used):
        assert getattr(new.optimizer, key) == getattr(old.optimizer, key)
