"""Extras: what the code asks for is what pyproject.toml installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.errors import raises
from sweepft import extras
from sweepft.cli.main import cli

DISTRIBUTIONS = {"lm_eval": "lm-eval", "liger_kernel": "liger-kernel", "optuna_dashboard": "optuna-dashboard",
                 "mlflow": "mlflow-skinny", "aiohttp": "ray[default]"}  # fmt: skip
"""Where a module's name is not its distribution's."""


def test_extras__are_those_of_pyproject() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in extras.EXTRAS.items():
        names = [re.split(r"[<>=!~ ]", requirement)[0] for requirement in project[extra]]
        for module in modules:
            assert DISTRIBUTIONS.get(module, module) in names, (extra, module)


def test_install__names_every_extra_once() -> None:
    assert extras.install("torch", "lm_eval", "peft") == "pip install 'sweepft[run,eval]'"
    assert extras.install("bitsandbytes") == "pip install 'sweepft[8bit]'"
    assert "sweepft[qlora]" in str(extras.import_error("bitsandbytes", "train.lora.quantize"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "spec.yaml"],
        ["train", "spec.yaml"],
        ["validate", "spec.yaml"],
        ["plan", "spec.yaml"],
        ["demo"],
        ["resume", "."],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("absent", ["torch", "accelerate"])  # the latter loads ZeRO-3 models and exams
def test_commands__without_the_run_extra_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], absent: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module != absent)
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text("name: x\n")
    with raises(extras.MissingPackages, "packages.run") as refused:
        CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
    assert "pip install 'sweepft[run]'" in str(refused.value)
    assert not Path("runs").exists()


def test_validate__of_the_yaml_alone_needs_no_training_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module not in extras.EXTRAS["run"])
    spec = Path("sweeps/gsm8k-tiny.yaml").resolve()
    result = CliRunner().invoke(cli, ["validate", "--no-files", str(spec)], catch_exceptions=False)
    assert result.exit_code == 0
