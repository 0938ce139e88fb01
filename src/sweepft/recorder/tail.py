"""The rows of a ledger as they come: for whoever follows a sweep from another process.

One idea: only whole lines are taken, and the next look begins where the last whole line ended. A half-written line is
left until it is whole, or until a resume has cut it off.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from sweepft.errors import LedgerError
from sweepft.recorder.ledger import check_place, checked_row, ledger_path
from sweepft.recorder.rows import Row

__all__ = ["LedgerTail"]


class LedgerTail:
    """Reads on in the ledger of a run, from its first row.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._path = ledger_path(run_dir)
        self._at = 0
        self._seq = 0

    def read(self, most: int = 1000) -> list[Row]:
        """The rows since the last call, ``most`` of them at a time; empty when there are none yet.

        Raises:
            LedgerError: If there is no ledger.
            LedgerCorrupt, LedgerVersion: See `iter_ledger`.
        """
        return list(itertools.islice(self._rows(), most))

    def _rows(self) -> Iterator[Row]:
        try:
            source = self._path.open("rb")
        except OSError as error:
            raise LedgerError(
                f"{self._path}: cannot read the ledger: {error.strerror}\n  Give the folder of a run."
            ) from error
        with source:
            source.seek(self._at)
            for line in source:
                if not line.endswith(b"\n"):
                    return
                row = checked_row(line[:-1], self._path, self._seq)
                check_place(row, self._path, self._seq)
                self._at += len(line)
                self._seq += 1
                yield row
