"""A package that a spec needs is asked for before anything is started."""

from __future__ import annotations

import importlib.util

import pytest

from support.errors import raises
from support.planning import spec_to_plan
from sweepft.driver.start import check_packages
from sweepft.errors import SpecError

TRAIN = {"budget": {"samples": 1024}, "micro_batch": 4}


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {**TRAIN, "lora": {}}},
        {"search": {"space": {"batch_size": {"choice": [128]}, "lora.rank": {"choice": [8, 16]}}}},
    ],
)
def test_check_packages__lora_needs_peft(monkeypatch, sections):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(SpecError, "train.lora") as refused:
        check_packages(spec_to_plan(**sections))
    assert "pip install 'sweepft[lora]'" in str(refused.value)


@pytest.mark.parametrize(
    ("sections", "key", "extra"),
    [
        (
            {"train": {**TRAIN, "optimizer": {"name": "adamw_8bit"}}},
            "train.optimizer.name",
            "8bit",
        ),
        (
            {"search": {"space": {"batch_size": {"choice": [128]},
                                  "optimizer.name": {"choice": ["adamw", "adamw_8bit"]}}}},
            "train.optimizer.name",
            "8bit",
        ),
        ({"train": {**TRAIN, "liger": True}}, "train.liger", "liger"),
    ],
)  # fmt: skip
def test_check_packages__optional_packages(monkeypatch, sections, key, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(SpecError, key) as refused:
        check_packages(spec_to_plan(**sections))
    assert f"sweepft[{extra}]" in str(refused.value)


def test_check_packages__full_training_needs_no_peft(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_packages(spec_to_plan())


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_check_packages__trackers_need_their_package(monkeypatch, tracker):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(SpecError, f"track.{tracker}"):
        check_packages(spec_to_plan(track={tracker: {}}))
