"""The sweep's only writer: appends a row to the ledger, folds it into the state, calls the listeners.

Everything that happens in a sweep passes here, in the order in which it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sweepft.errors import StorageError
from sweepft.ledger.lock import current_writer
from sweepft.ledger.rows import Row
from sweepft.ledger.state import SweepState
from sweepft.ledger.writer import Ledger


class EventLog:
    """Writes the rows of one sweep.

    Args:
        ledger: Open for writing.
        state: The state so far; empty for a new sweep.

    Attributes:
        failure: The error after which nothing can be written any more, or None. Tune turns exceptions of its
            callbacks into text, so the error is kept here.
        listeners: Called with each row, after it is written and folded.
    """

    def __init__(self, ledger: Ledger, state: SweepState) -> None:
        self.ledger = ledger
        self.state = state
        state.writer = current_writer(ledger.path.parent)
        self.failure: StorageError | None = None
        self.listeners: list[Callable[[Row], None]] = []

    def write(self, kind: str, **fields: Any) -> Row:
        """Append one row (see ``sweepft.ledger.rows``) and return it.

        Raises:
            StorageError: If the ledger cannot be written, now or at an earlier call.
        """
        if self.failure is not None:
            raise self.failure
        try:
            row = self.ledger.append(kind, **fields)
        except StorageError as error:
            self.failure = error
            raise
        self.state.apply(row)
        for listener in self.listeners:
            listener(row)
        return row
