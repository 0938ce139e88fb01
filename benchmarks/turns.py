"""Worker processes that prepare in parallel and then run on request, one at a time or several at once.

Preparation (imports, weights, first steps) takes longer than what is timed, and need not be timed. A process waits
between requests without using the CPU.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any, Self

__all__ = ["Worker"]


class Worker:
    """A process that calls ``prepare(job)`` at once, and then the function it returned at each `go`.

    Args:
        prepare: A module-level function, called in the new process; returns the function to time.
        job: Its argument.
    """

    def __init__(self, prepare: Callable[[Any], Callable[[], Any]], job: Any) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, prepare, job), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()  # an idle process ends by itself
        self._process.join(timeout=10)
        self._process.kill()

    def go(self) -> None:
        """Start one run."""
        self._line.send(None)

    def answer(self) -> Any:
        """Wait for the result of the last `go`; the first call waits for the preparation and returns None.

        Raises:
            RuntimeError: If the process ended; its error is on stderr.
        """
        try:
            return self._line.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a process ended with exit code {self._process.exitcode}") from None


def _work(line: Any, prepare: Callable[[Any], Callable[[], Any]], job: Any) -> None:
    run = prepare(job)
    line.send(None)
    with contextlib.suppress(EOFError):
        while True:
            line.recv()
            line.send(run())
