"""Optuna's journal file, written by one driver.

One idea: Optuna's own backend opens, locks, syncs and reads the file again for every value, for it may have many
writers. A sweep has one (the ledger's lock sees to that), and its study can be made again from the ledger: so a line is
appended, and handed back without a look at the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

__all__ = ["OneWriterJournal"]


class OneWriterJournal(BaseJournalBackend):
    """The journal as its only writer sees it; whoever else reads the file finds Optuna's format.

    Args:
        path: The file, made where it is missing; None keeps the journal in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._told: int | None = None  # lines handed out so far; None before the file has been read
        self._fresh: list[dict[str, Any]] = []  # appended since
        self._stored: list[dict[str, Any]] = []  # all lines, of a journal in memory
        if path is not None:
            path.touch()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Lines from this number on."""
        if log_number_from == self._told:
            found = self._fresh
        elif self._path is None:
            found = self._stored[log_number_from:]
        else:
            found = list(JournalFileBackend(str(self._path)).read_logs(log_number_from))
        self._told, self._fresh = log_number_from + len(found), []
        return found

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines in one write."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        fresh = [json.loads(line) for line in lines]
        if self._path is None:
            self._stored += fresh
        else:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, ("\n".join(lines) + "\n").encode())
            finally:
                os.close(file)
        self._fresh += fresh
