"""What `sweepft init` asks on a terminal, and that it asks nothing without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.terminals import OnTerminal, sweepft

pytestmark = pytest.mark.full  # processes


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "alpaca.json"
    file.write_text(
        json.dumps([{"instruction": f"Say {i}", "input": "", "output": str(i)} for i in range(40)])
    )
    return file


def test_init__asks_for_what_is_missing(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep.yaml"
    terminal = OnTerminal("init", "--out", out, "--no-files")
    terminal.answer("Base model", "org/base\n")
    terminal.answer("Training data", f"{rows}\n")
    terminal.answer("GPUs", "some\n")
    terminal.answer("not a valid integer", "0\n")
    terminal.answer("Train (lora, qlora, full)", "\n")
    assert terminal.process.wait(240) == 0
    spec = yaml.safe_load(out.read_text())
    assert (spec["model"]["path"], spec["data"]["train"][0]["path"]) == ("org/base", "alpaca.json")
    assert (spec["resources"].get("gpus_per_worker", 0), "lora" in spec["train"]) == (0, True)


def test_init__end_of_input_at_a_question_writes_nothing(tmp_path: Path) -> None:
    terminal = OnTerminal("init", "--out", tmp_path / "sweep.yaml")
    terminal.answer("Base model", "\x04")
    assert terminal.process.wait(240) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [[], ["--json"], ["--model", "org/base"]])
def test_init__without_a_terminal_names_the_options_that_are_missing(
    rows: Path, tmp_path: Path, given: list[str]
) -> None:
    reader, writer = os.pipe()  # never written to, and open until the end: whoever reads from it waits
    try:
        process = sweepft(
            "init",
            *given,
            "--out",
            tmp_path / "sweep.yaml",
            stdin=reader,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, errors = process.communicate(timeout=240)
    finally:
        os.close(reader)
        os.close(writer)
    assert process.returncode == 2
    missing = [name for name in ("--model", "--data") if name not in given]
    assert all(name in errors.decode() for name in missing)
    if "--json" in given:
        assert [problem["key"] for problem in json.loads(out)["error"]["problems"]] == missing


def test_init__with_messages_redirected_asks_nothing(rows: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.stderr = open({str(tmp_path / 'log')!r}, 'w'); from sweepft.cli import main; main()"
    )
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "init", "--out", str(tmp_path / "sweep.yaml")],
        stdin=slave,
        stdout=slave,
    )
    os.close(slave)
    assert process.wait(240) == 2
    os.close(master)
    assert "--model" in (tmp_path / "log").read_text()
