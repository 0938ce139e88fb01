"""The command line as a process whose output goes somewhere: a pipe, a full disk, a terminal that is closed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")


def sweepft(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command."""
    return subprocess.Popen([sys.executable, "-m", "sweepft.cli", *map(str, arguments)], **options)


class OnTerminal:
    """A command on a terminal of its own, whose session it leads.

    Args:
        arguments: Of the command.
        ignoring: Signals that it begins with ignored, as under ``nohup``.
    """

    def __init__(self, *arguments: str | Path, ignoring: Sequence[int] = ()) -> None:
        self._master, slave = os.openpty()

        def prepare() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for number in ignoring:
                signal.signal(number, signal.SIG_IGN)

        self.process = sweepft(
            *arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=prepare
        )
        os.close(slave)
        self.shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._open = True
        self._reader.start()

    def answer(self, question: str, text: str) -> None:
        """Wait until the command has asked a question, and type the answer."""
        until(lambda: question.encode() in self.shown, self.process)
        os.write(self._master, text.encode())

    def close(self) -> None:
        """Close the terminal: the kernel sends SIGHUP to its processes, and later writes fail."""
        self._open = False
        os.write(self._master, b"\n")  # echoed, which wakes the reader
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        while self._open:
            try:
                self.shown += os.read(self._master, 1 << 16)
            except OSError:
                return


def until(found: Callable[[], T], process: subprocess.Popen[bytes], seconds: float = 240.0) -> T:
    """Wait until ``found`` finds something, while the process runs."""
    deadline = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        assert process.poll() is None, f"the command has ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def below(process: subprocess.Popen[bytes], words: str = "") -> list[psutil.Process]:
    """Living processes below this one whose command line has the words."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if words in _command(child)]


def gone(processes: Sequence[psutil.Process], seconds: float = 30.0) -> list[psutil.Process]:
    """The processes that are still there after a while."""
    return psutil.wait_procs(processes, timeout=seconds)[1]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
