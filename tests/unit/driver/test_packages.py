"""A package that a spec needs is asked for before anything is started."""

from __future__ import annotations

import importlib.util

import pytest

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
def test_adapters_without_peft_are_refused_with_what_to_install(monkeypatch, sections):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SpecError, match=r"train.lora: needs the package peft.*\n.*pip install 'sweepft\[lora\]'"
    ):
        check_packages(spec_to_plan(**sections))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"train": {**TRAIN, "optimizer": {"name": "adamw_8bit"}}},
            r"train.optimizer.name: needs the package bitsandbytes.*\n.*'sweepft\[8bit\]'",
        ),
        (
            {"search": {"space": {"batch_size": {"choice": [128]},
                                  "optimizer.name": {"choice": ["adamw", "adamw_8bit"]}}}},
            "needs the package bitsandbytes",
        ),
        ({"train": {**TRAIN, "liger": True}}, r"train.liger: needs the package liger-kernel.*\n.*'sweepft\[liger\]'"),
    ],
)  # fmt: skip
def test_other_optional_packages_too(monkeypatch, sections, said):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=said):
        check_packages(spec_to_plan(**sections))


def test_who_trains_all_weights_needs_no_peft(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_packages(spec_to_plan())


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_trackers_without_their_package_are_refused_with_what_to_install(monkeypatch, tracker):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=rf"track.{tracker}: needs the package.*\n.*sweepft\[{tracker}\]"):
        check_packages(spec_to_plan(track={tracker: {}}))
