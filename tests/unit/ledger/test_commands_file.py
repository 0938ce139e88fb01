"""The command file: each complete, valid line is read once, whatever a crash has left in the file."""

from __future__ import annotations

import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.errors import raises
from sweepft.errors import StorageError
from sweepft.ledger import Command, CommandInbox, commands_path, send_command


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "ledger").mkdir()
    return tmp_path


def test_inbox__commands_come_once_each_and_in_order(run: Path) -> None:
    inbox = CommandInbox(run)
    assert inbox.new() == []
    given = [Command.new("stop", "t003"), Command.new("clone", "t001", {"params": {"learning_rate": 2e-5}})]
    for command in given:
        send_command(run, command)
    assert inbox.new() == given
    assert inbox.new() == []
    send_command(run, Command.new("pause"))
    assert [c.command for c in inbox.new()] == ["pause"]
    assert len(CommandInbox(run).new()) == 3, (
        "another driver sees them all; the ledger says which are answered"
    )


def test_command__has_sender_and_time(run: Path) -> None:
    command = Command.new("stop")
    user, at, host = command.who.partition("@")
    assert user
    assert at
    assert host
    assert command.asked > 1e9
    assert command.command_id != Command.new("stop").command_id


def test_send_command__appends_to_a_private_file(run: Path) -> None:
    send_command(run, Command.new("pause"))
    before = commands_path(run).read_bytes()
    send_command(run, Command.new("continue"))
    assert commands_path(run).read_bytes().startswith(before)
    assert stat.S_IMODE(commands_path(run).stat().st_mode) == 0o600


def test_inbox__half_written_line_waits_until_complete(run: Path) -> None:
    send_command(run, Command.new("pause"))
    path = commands_path(run)
    line = path.read_bytes()
    path.write_bytes(line + line[:20])
    inbox = CommandInbox(run)
    assert len(inbox.new()) == 1
    assert inbox.new() == []
    path.write_bytes(line + line)
    assert len(inbox.new()) == 1


def test_inbox__torn_line_costs_no_other_command(run: Path) -> None:
    send_command(run, Command.new("pause"))
    path = commands_path(run)
    path.write_bytes(path.read_bytes() + b'{"command":"st')
    send_command(run, Command.new("continue"))
    assert [c.command for c in CommandInbox(run).new()] == ["pause", "continue"]


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"not json\n", b'{"command":"stop"}\n', b"\xff\xfe\n", b"[]\n", b"x" * 100_000 + b"\n"],
)
def test_inbox__skips_lines_that_are_no_command(run: Path, line: bytes) -> None:
    commands_path(run).write_bytes(line)
    send_command(run, Command.new("pause"))
    assert [c.command for c in CommandInbox(run).new()] == ["pause"]


@pytest.mark.parametrize(
    "command",
    [
        Command("reboot", who="a@b", command_id="1", asked=1.0),
        Command("stop", who="", command_id="1", asked=1.0),
        Command("stop", who="a@b\x1b[2J", command_id="1", asked=1.0),
        Command("stop", who="a@b", command_id="", asked=1.0),
    ],
)
def test_inbox__skips_unknown_commands_and_invalid_senders(run: Path, command: Command) -> None:
    send_command(run, command)
    assert CommandInbox(run).new() == []


def test_send_command__unwritable_file_is_a_storage_error(tmp_path: Path) -> None:
    with raises(StorageError, "storage"):
        send_command(tmp_path / "nowhere", Command.new("pause"))


def test_send_command__concurrent_writers_lose_nothing(run: Path) -> None:
    code = f"""
    from sweepft.ledger import Command, send_command
    for i in range(50):
        send_command({str(run)!r}, Command.new("stop", f"t{{i:03d}}"))
    """
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) for _ in range(3)]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    assert len(CommandInbox(run).new()) == 150
