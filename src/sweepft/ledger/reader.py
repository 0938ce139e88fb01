"""Reads the ledger of a run: whole, or the rows that are new since the last look.

A crash can only leave a half-written last line, which readers ignore. Anything else that is wrong is an error that
names the row.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from sweepft.errors import LedgerCorrupt, LedgerError, LedgerVersion
from sweepft.files import inside, open_to_read
from sweepft.ledger.codec import MOST_LINE, decode_row, gc_paused
from sweepft.ledger.row_checks import row_problem
from sweepft.ledger.rows import SCHEMA_VERSION, Row

LEDGER: Final = ("ledger", "ledger.jsonl")
"""The ledger's path in a run folder."""

_RESTORE: Final = "  Restore the file from a copy."


def ledger_path(run_dir: str | os.PathLike[str]) -> Path:
    """The ledger's file in a run folder."""
    return Path(run_dir, *LEDGER)


def iter_ledger(run_dir: str | os.PathLike[str], *, steps: bool = True) -> Iterator[Row]:
    """The rows of a run's ledger in order, each checked; also while a driver writes it.

    Args:
        run_dir: The run folder, or the ledger's file.
        steps: False leaves out the `steps` rows, which are most of a ledger's bytes.
    Raises:
        LedgerError: If there is no ledger.
        LedgerCorrupt: At the first damaged, missing or doubled row; the message names it.
        LedgerVersion: If it was written with another schema version.
    """
    is_file = Path(run_dir).suffix == ".jsonl"
    path = Path(run_dir) if is_file else inside(run_dir, *LEDGER)
    try:
        source = open_to_read(path, links=is_file)
    except OSError as e:
        raise LedgerError(
            f"{path}: cannot read the ledger: {e.strerror or e}\n  Give the folder of a run that has started.",
            key="ledger.missing",
        ) from e
    with source:
        for seq, line in enumerate(_lines(source, path, 0)):
            if not steps and b'"kind":"steps"' in line[:120]:
                continue
            row = _decoded(line[:-1], path, seq) if line.endswith(b"\n") else _last_row(line, path, seq)
            if row is None:
                return
            _check_place(row, path, seq)
            yield row


def read_ledger(run_dir: str | os.PathLike[str]) -> list[Row]:
    """All rows of a run's ledger; see `iter_ledger`."""
    with gc_paused():
        return list(iter_ledger(run_dir))


def has_trials(run_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a run with at least one trial.

    Raises:
        LedgerError, LedgerCorrupt, LedgerVersion: See `iter_ledger`; no ledger is no error.
    """
    if not ledger_path(run_dir).exists():
        return False
    return any(row["kind"] == "trial" for row in iter_ledger(run_dir, steps=False))


class LedgerTail:
    """Follows the ledger of a run from another process, beginning with its first row.

    Each call continues after the last whole line. A half-written line is left until it is whole, or until a resume
    has cut it off.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._path = inside(run_dir, *LEDGER)
        self._offset = 0
        self._seq = 0

    def read(self, most: int = 1000) -> list[Row]:
        """Up to ``most`` rows since the last call; empty when there are none yet.

        Raises:
            LedgerError, LedgerCorrupt, LedgerVersion: See `iter_ledger`.
        """
        return list(itertools.islice(self._rows(), most))

    def _rows(self) -> Iterator[Row]:
        try:
            source = open_to_read(self._path)
        except OSError as error:
            raise LedgerError(
                f"{self._path}: cannot read the ledger: {error.strerror}\n  Give the folder of a run.",
                key="ledger.missing",
            ) from error
        with source:
            source.seek(self._offset)
            for line in _lines(source, self._path, self._seq):
                if not line.endswith(b"\n"):
                    return
                row = _decoded(line[:-1], self._path, self._seq)
                _check_place(row, self._path, self._seq)
                self._offset += len(line)
                self._seq += 1
                yield row


def _decoded(line: bytes, path: Path, seq: int) -> Row:
    try:
        return decode_row(line)
    except ValueError as e:
        raise LedgerCorrupt(
            f"{path}:{seq + 1}: row {seq} is damaged: {e}\n"
            "  Restore the file from a copy, or cut it before this row: the rows before it are sound."
        ) from e


def _last_row(line: bytes, path: Path, seq: int) -> Row | None:
    """The row of a last line that lacks its newline, or None when the row itself is half-written."""
    try:
        return decode_row(line)
    except ValueError:
        pass
    try:
        decode_row(line[:-1])
    except ValueError:
        return None
    raise LedgerCorrupt(f"{path}:{seq + 1}: row {seq} is damaged: its newline has changed\n{_RESTORE}")


def _check_place(row: Row, path: Path, seq: int) -> None:
    where = f"{path}:{seq + 1}"
    found = row.get("schema_version")
    if row.get("kind") == "sweep" and found != SCHEMA_VERSION:
        raise LedgerVersion(
            f"{where}: row {seq}: ledger schema {found!r}, this sweepft reads {SCHEMA_VERSION}\n"
            f"  Read it with the sweepft that wrote it ({row.get('sweepft_version', 'version unknown')})."
        )
    if row.get("seq") != seq:
        raise LedgerCorrupt(
            f"{where}: row {seq} is missing or doubled: found seq {row.get('seq')!r}\n{_RESTORE}"
        )
    if seq == 0 and row.get("kind") != "sweep":
        raise LedgerCorrupt(f"{where}: row 0 is {row.get('kind')!r}, not a sweep row\n{_RESTORE}")
    broken = row_problem(row)
    if broken is not None:
        field, rule = broken
        raise LedgerCorrupt(
            f"{where}: row {seq} ({row.get('kind')!s:.40}): {field} {rule:.300} (got {row.get(field)!r:.100})\n"
            "  this row was not written by sweepft: do not use this ledger",
            key=f"ledger.{field}",
        )


def _lines(source: BinaryIO, path: Path, seq: int) -> Iterator[bytes]:
    """The lines of a ledger from row ``seq`` on, none of them longer than a row can be."""
    while line := source.readline(MOST_LINE + 2):
        if len(line) > MOST_LINE + 1:
            raise LedgerCorrupt(
                f"{path}:{seq + 1}: row {seq} has more than {MOST_LINE >> 20} MiB\n{_RESTORE}"
            )
        yield line
        seq += 1
