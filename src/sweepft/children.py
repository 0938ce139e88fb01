"""Child processes that do one piece of work for a command: they get a job, and end with the command.

Job and output pass through files, so that neither side can block on a full pipe, nor on a grandchild that keeps one
open.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, Any, Final

_LAST_LINES: Final = 15
_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Ended:
    """A child process that has ended.

    Attributes:
        returncode: Its exit status.
        output: What it wrote to standard output.
        errors: What it wrote to standard error.
    """

    returncode: int
    output: str
    errors: str

    @property
    def tail(self) -> str:
        """The end of its errors, or of its output if there are none."""
        return "\n".join((self.errors or self.output).strip().splitlines()[-_LAST_LINES:])


def run_module(module: str, *arguments: str, job: Any = None, timeout: float | None = None) -> Ended:
    """Run ``python -m module`` to its end.

    The process leads a group of its own. Whatever ends the wait for it, a signal or a time limit, ends the whole group.

    Args:
        module: Of this package.
        arguments: Of the command line.
        job: Given to it as JSON on standard input.
        timeout: Seconds; None without limit.
    Raises:
        subprocess.TimeoutExpired: If it takes longer.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "utf-8",
    }  # its output is read as such, whatever the locale
    files = tempfile.TemporaryFile
    with files() as given, files() as output, files() as errors:
        given.write(json.dumps(job).encode())
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=output, stderr=errors, env=environment, process_group=0
        )
        try:
            code = process.wait(timeout)
        finally:
            end_group(process)
        return Ended(code, _text(output), _text(errors))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads its own group, and what it has started; nothing if it has ended."""
    if process.poll() is not None:
        return
    for number in signal.SIGTERM, signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
