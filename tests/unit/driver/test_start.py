"""A package that a spec needs is asked for before anything is started."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from support.errors import raises
from support.planning import spec_to_plan
from sweepft import extras
from sweepft.cli.main import cli
from sweepft.driver.start import check_packages
from sweepft.errors import SpecError


def only_run_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module in extras.EXTRAS["run"])


TRAIN = {"budget": {"samples": 1024}, "micro_batch": 4}


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


@pytest.mark.parametrize("train", [TRAIN, {**TRAIN, "lora": {}}])
def test_check_packages__training_and_adapters_need_the_run_extra_alone(monkeypatch, train):
    only_run_is_installed(monkeypatch)
    check_packages(spec_to_plan(train=train))


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


def test_validate__names_the_packages_that_run_will_ask_for(monkeypatch, tmp_path, tiny_model_dir):
    only_run_is_installed(monkeypatch)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(30)))
    spec = spec_to_plan(train={**TRAIN, "liger": True})
    file = tmp_path / "sweep.yaml"
    data = {"train": [{"path": str(rows)}], "validation": [{"name": "own", "fraction": 0.2, "weight": 1.0}]}
    file.write_text(json.dumps({**spec.to_dict(), "model": {"path": str(tiny_model_dir)}, "data": data}))
    done = CliRunner().invoke(cli, ["validate", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "warning: train.liger: needs the package liger-kernel" in done.output
    assert "pip install 'sweepft[liger]'" in done.output
