"""Commands to a running sweep: an append-only file in the run folder, which the driver reads and answers.

Whoever may write the run folder appends one line. The driver looks at the file a few times a second and writes its
answer into the ledger as a `command` row. A command without an answer is taken up by the next driver.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sweepft.errors import StorageError
from sweepft.files import inside, open_to_append, open_to_read
from sweepft.ledger.codec import decode_row, encode_row, plain
from sweepft.ledger.rows import is_time

COMMANDS: Final = ("stop", "pin", "clone", "extend", "pause", "continue")
_MAX_LINE: Final = 64 * 1024  # bytes
_MOST_AT_ONCE: Final = 16 << 20
"""Bytes read in one look at the file."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        command: One of `COMMANDS`.
        trial_id: The trial it is about; None for the whole sweep.
        arguments: ``{"params": {...}}`` of a clone, ``{"trials": N}`` of an extension.
        who: ``user@host``.
        asked: Unix seconds.
        command_id: Names it in the answer.
    """

    command: str
    trial_id: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    who: str = ""
    asked: float = 0.0
    command_id: str = ""

    @classmethod
    def new(
        cls, command: str, trial_id: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> Command:
        """A command of the user of this process, sent now."""
        return cls(command, trial_id, dict(arguments or {}), who_am_i(), time.time(), uuid.uuid4().hex[:12])


def who_am_i() -> str:
    """``user@host`` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def commands_path(run_dir: str | os.PathLike[str]) -> Path:
    """The file of commands in a run folder. Raises UnsafePath if it is a link."""
    return inside(run_dir, "ledger", "commands.jsonl")


def send_command(run_dir: str | os.PathLike[str], command: Command) -> None:
    """Append a command; it is on disk when this returns.

    Raises:
        StorageError: If the file cannot be written.
    """
    path = commands_path(run_dir)
    line = encode_row(plain(asdict(command)))
    try:
        fd = open_to_append(path)
        try:
            with contextlib.suppress(OSError):  # without locks, appends are still whole
                fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a crash left half a line
                line = b"\n" + line
            os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "  run the command as a user, and on a machine, that can write the run folder"
        raise StorageError(f"{path}: the command cannot be written: {why}\n{remedy}") from error


class CommandInbox:
    """The driver's end of the file: reads each line once and ignores lines that are no valid command."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._path = commands_path(run_dir)
        self._offset = 0

    def new(self) -> list[Command]:
        """Commands that arrived since the last call, in order. Whether they can be carried out is not checked."""
        try:
            if self._path.stat().st_size <= self._offset:
                return []
            with open_to_read(self._path) as file:
                file.seek(self._offset)
                found = file.read(_MOST_AT_ONCE)
        except OSError:
            return []
        whole, _, rest = found.rpartition(b"\n")
        if not whole and len(found) == _MOST_AT_ONCE:  # one line without an end
            self._offset += len(found)
            return []
        if not whole and not found.startswith(b"\n"):
            return []
        self._offset += len(found) - len(rest)
        return [c for c in map(_command, whole.split(b"\n")) if c is not None]


def _command(line: bytes) -> Command | None:
    if not line or len(line) > _MAX_LINE:
        return None
    try:
        row = decode_row(line)
        found = Command(**{k: v for k, v in row.items() if k in Command.__dataclass_fields__})
    except (ValueError, TypeError):
        return None
    texts = (found.command, found.who, found.command_id)
    sound = all(isinstance(t, str) and t.isprintable() and t for t in texts)
    sound = sound and isinstance(found.arguments, dict) and is_time(found.asked)
    return found if sound and found.command in COMMANDS and isinstance(found.trial_id, str | None) else None
