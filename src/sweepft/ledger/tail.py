"""The rows of a ledger as they come: for whoever follows a sweep from another process.

One idea: only whole lines are taken, and the next look begins where the last whole line ended. A half-written line is
left until it is whole, or until a resume has cut it off.
"""
# MERGED Results that a crash cut in two, left out: the rows that whoever goes on with a sweep, or replays it, may rely on.

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence

from sweepft.errors import LedgerError
from sweepft.ledger.ledger import check_place, checked_row, ledger_path
from sweepft.ledger.rows import Row


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


def complete_results(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """Leave out results that a crash cut in two.

    A result is written as ``steps``, ``eval``, ``decision`` and ``cost`` rows in this order; without a ``cost`` row it
    counts as not written, and its steps are trained again.

    Returns:
        The rows to go on from, and for each trial the samples up to which it was reported.
    """
    dropped: set[int] = set()
    pending: dict[str, list[int]] = {}
    reported: dict[str, int] = {}
    for i, row in enumerate(rows):
        name, kind = row.get("trial_id"), row["kind"]
        if kind == "sweep":  # a resume: what was cut before it stays cut, whatever rows follow
            for indices in pending.values():
                dropped.update(indices)
            pending = {}
        if name is None:
            continue
        if kind == "steps":
            dropped.update(pending.get(name, ()))
            pending[name] = [i]
        elif kind in ("eval", "decision") and name in pending:
            pending[name].append(i)
        elif kind == "cost" and name in pending:
            reported[name] = int(rows[pending.pop(name)[0]]["history"]["samples_seen"][-1])
    for indices in pending.values():
        dropped.update(indices)
    return [row for i, row in enumerate(rows) if i not in dropped], reported
