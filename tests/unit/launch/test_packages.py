"""A package that a spec needs is asked for before anything is started."""

from __future__ import annotations

import importlib.util

import pytest

from support.planning import spec_to_plan
from sweepft.errors import SpecError
from sweepft.launch.run import check_packages


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"budget": {"samples": 1024}, "micro_batch": 4, "lora": {}}},
        {"search": {"space": {"batch_size": {"choice": [128]}, "lora.rank": {"choice": [8, 16]}}}},
    ],
)
def test_adapters_without_peft_are_refused_with_what_to_install(monkeypatch, sections):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SpecError, match=r"train.lora: needs the package peft.*\n.*pip install 'sweepft\[lora\]'"
    ):
        check_packages(spec_to_plan(**sections))


def test_who_trains_all_weights_needs_no_peft(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_packages(spec_to_plan())


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_trackers_without_their_package_are_refused_with_what_to_install(monkeypatch, tracker):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=rf"track.{tracker}: needs the package.*\n.*sweepft\[{tracker}\]"):
        check_packages(spec_to_plan(track={tracker: {}}))
