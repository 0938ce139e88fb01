"""Processes that make themselves ready side by side and are then timed in turns, or some of them together.

The idea to keep in mind: imports, weights and first steps cost more than what is timed and need no quiet machine; a
process that is not told to go only waits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any, Self

__all__ = ["Worker"]


class Worker:
    """A process that runs ``prepare(job)`` at once, and what that returns each time it is told to go.

    Args:
        prepare: A function of a module, called in the new process; returns the function that is timed.
        job: Its argument.
    """

    def __init__(self, prepare: Callable[[Any], Callable[[], Any]], job: Any) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, prepare, job), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()  # it ends by itself, unless it is at work
        self._process.join(timeout=10)
        self._process.kill()

    def go(self) -> None:
        """Have it run once."""
        self._line.send(None)

    def answer(self) -> Any:
        """What it returned, or None once it is ready.

        Raises:
            RuntimeError: If it ended instead; its last words are on stderr.
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
