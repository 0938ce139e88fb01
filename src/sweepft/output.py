"""Text output that cannot fail: standard streams and consoles whose terminal, pipe or disk may be gone.

A sweep does not depend on its display. For the commands that run one, what cannot be written is dropped. For commands
whose output is their purpose, the first failed write ends the command (`OutputError`).
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TextIO

from sweepft.errors import OutputError
from sweepft.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

_ERRORS: Final = "backslashreplace"
"""Characters that the stream's encoding lacks: nothing is lost, and nothing raises."""

_FAILURES: Final = (OSError, ValueError, OutputError)
"""Of writing to a text file; it is a ValueError if the file is closed."""


class _Policy:
    """What a failed write to a standard stream leads to."""

    ends = False


def end_on_failure(ends: bool) -> None:
    """Set whether a failed write to standard output ends the command."""
    _Policy.ends = ends


class _Raw(io.FileIO):
    """A descriptor that takes all it is given. Unbuffered, so that a signal's handler may write as well.

    Args:
        descriptor: Stays open.
        may_end: Whether a failure may end the command; never for standard error.
    """

    def __init__(self, descriptor: int, may_end: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._may_end = may_end

    def write(self, data: Any, /) -> int:
        """Write everything, or drop it. Raises OutputError once if the policy is to end."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                done = super().write(rest)
                if done is None:  # another program has made the terminal non-blocking
                    select.select([], [self.fileno()], [], 1.0)
                else:
                    rest = rest[done:]
        except OSError as error:
            if self._may_end and _Policy.ends:
                self._may_end = False
                raise OutputError(error) from None
        return size


def dropping_stream(descriptor: int, encoding: str = "utf-8", *, may_end: bool = False) -> TextIO:
    """A text stream on a descriptor. What cannot be written is dropped.

    Args:
        descriptor: Open for writing.
        encoding: Of the text.
        may_end: Whether a failure ends the command, where `end_on_failure` asks for it.
    """
    raw: Any = _Raw(descriptor, may_end)
    return io.TextIOWrapper(raw, encoding, _ERRORS, line_buffering=True, write_through=True)


def guard_output() -> bool:
    """Put such streams in place of this process's standard output and error, and return whether they were its own.

    A standard descriptor that is closed is opened on the null device first: else the next file that is opened, such as
    the ledger, would take its place and receive what libraries print. Streams that were replaced already stay.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    own = sys.stdout is sys.__stdout__
    if own:
        sys.stdout = dropping_stream(1, _encoding(sys.stdout), may_end=True)
    if sys.stderr is sys.__stderr__:
        sys.stderr = dropping_stream(2, _encoding(sys.stderr))
    return own


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


class _DroppingText:
    """A text file whose writes never raise."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with contextlib.suppress(*_FAILURES):
            try:
                self._file.write(text)
            except UnicodeError:
                self._file.write(text.encode("ascii", _ERRORS).decode("ascii"))
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(*_FAILURES):
            self._file.flush()


def say(text: object = "", *, file: TextIO | None = None, err: bool = False, nl: bool = True) -> None:
    """Print text, with control characters as escapes: what a ledger, a spec or a server says commands no terminal.

    Args:
        text: Any text, also of others.
        file: Where to; None for standard output or error.
        file: Where to; None for standard output or error.
        err: To standard error.
        nl: Whether a newline follows.
    """
    import click

    click.echo(visible(str(text)), file=file, err=err, nl=nl)


@cache
def _console_class() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class VisibleConsole(Console):
        """Shows control characters in texts as escapes; the only ones that it writes are its own."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control:
                    yield segment
                else:
                    yield Segment(visible(segment.text), segment.style)

    return VisibleConsole


def make_console(**options: Any) -> Console:
    """A console for texts of others: no markup, emoji or highlighting in them, control characters as escapes.

    Args:
        options: Of `rich.console.Console`.
    """
    return _console_class()(**{"markup": False, "emoji": False, "highlight": False, **options})


def sweep_console(console: Console | None) -> Console:
    """The console of a sweep: the given one, or one on standard output, made unable to end the sweep."""
    console = make_console() if console is None else console
    if not isinstance(console.file, _DroppingText):
        file: Any = _DroppingText(console.file)
        console.file = file
    return console
