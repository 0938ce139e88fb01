"""A package that a spec needs is asked for before anything is started."""

from __future__ import annotations

import pytest

from support.errors import raises
from support.planning import spec_to_plan
from sweepft import extras
from sweepft.driver.start import check_packages
from sweepft.errors import SpecError


def only_run_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module in extras.EXTRAS["run"])


TRAIN = {"budget": {"samples": 1024}, "micro_batch": 4}


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {**TRAIN, "lora": {}}},
        {"search": {"space": {"batch_size": {"choice": [128]}, "lora.rank": {"choice": [8, 16]}}}},
    ],
)
def test_check_packages__lora_needs_peft(monkeypatch, sections):
    only_run_is_installed(monkeypatch)
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
        ({"train": {**TRAIN, "lora": {"quantize": "nf4"}}}, "train.lora.quantize", "qlora"),
    ],
)  # fmt: skip
def test_check_packages__optional_packages(monkeypatch, sections, key, extra):
    only_run_is_installed(monkeypatch)
    with raises(SpecError, key) as refused:
        check_packages(spec_to_plan(**sections))
    assert f"sweepft[{extra}]" in str(refused.value)


def test_check_packages__full_training_needs_no_peft(monkeypatch):
    only_run_is_installed(monkeypatch)
    check_packages(spec_to_plan())


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_check_packages__trackers_need_their_package(monkeypatch, tracker):
    only_run_is_installed(monkeypatch)
    with raises(SpecError, f"track.{tracker}"):
        check_packages(spec_to_plan(track={tracker: {}}))


def test_check_packages__training_needs_the_run_extra(monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module not in ("deepspeed", "transformers"))
    with raises(extras.MissingPackages, "packages.run") as refused:
        check_packages(spec_to_plan())
    assert "transformers, deepspeed" in str(refused.value)
    assert "pip install 'sweepft[run]'" in str(refused.value)
