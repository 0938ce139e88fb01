"""The command line as a public surface: its help, its speed of start, its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sweepft.cli import main as entry_point
from sweepft.cli.main import cli
from sweepft.cli.reference import commands

HEAVY = {"torch", "deepspeed", "transformers", "datasets", "ray", "optuna", "pandas", "plotly"}
COMMANDS = {
    "clone", "continue", "dashboard", "data", "demo", "extend", "fetch", "init", "logs", "mirror", "pause", "pin", "plan", "presets", "push",
    "replay", "report", "resume", "run", "schema", "status", "stop", "track", "train", "validate", "watch",
}  # fmt: skip


def test_cli__commands() -> None:
    assert set(cli.commands) == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_cli__first_help_line_is_an_imperative_that_fits_a_line(name: str) -> None:
    first = (commands()[name].help or "").splitlines()[0]
    verb, rest = first.split(" ", 1)
    assert verb.istitle()
    assert not verb.endswith("s")
    assert rest.endswith(".")
    assert len(first) <= 66, "sweepft --help shows it on one line"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_cli__every_option_has_help(name: str) -> None:
    options = [p for p in commands()[name].params if isinstance(p, click.Option)]
    assert [o.name for o in options if not o.help] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_cli__help_of_each_command(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_cli__help_loads_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from sweepft.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        f"loaded = {HEAVY!r} & sys.modules.keys()\n"
        "sys.exit(str(sorted(loaded)) if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--version"], 0, "sweepft"),
        (["no-such-command"], 2, "no-such-command"),
        (["settings"], 2, "sweepft presets"),
        (["validate", "no-such.yaml", "--no-files"], 2, "no-such.yaml"),
        (["replay", ".", "--rule", "no-such-rule"], 2, "no-such-rule"),
        (["status", "."], 1, "ledger"),
    ],
    ids=["version", "unknown command", "renamed command", "missing spec", "unknown rule", "no run folder"],
)
def test_entry_point__exit_code_and_message(
    arguments: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweepft", *arguments])
    exit_code = 0
    try:
        entry_point()
    except SystemExit as left:
        exit_code = int(left.code or 0)
    shown = capsys.readouterr()
    assert exit_code == code
    assert text in shown.out + shown.err
    assert "Traceback" not in shown.err
