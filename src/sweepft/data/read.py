"""Read a source of instruction data into rows of one normal form. No torch, no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sweepft.data.files import records
from sweepft.data.formats import TITLES, read_row
from sweepft.data.messages import Found, RowFault
from sweepft.data.rows import Row
from sweepft.errors import DataError, Problem

_MAX_PROBLEMS: Final = 10
_PLACES: Final = 5


@dataclass(frozen=True)
class Source:
    """The rows of a file or hub data set.

    Attributes:
        path: Where they come from.
        rows: At least one row, in file order.
        found: Formats, unused columns and renamed roles.
    """

    path: str
    rows: list[Row]
    found: Found = field(default_factory=Found)

    def notes(self) -> Iterator[str]:
        """What was read as what, and what was not used; one sentence each."""
        found, total = self.found, len(self.rows)
        if set(found.formats) - {"messages", "prompt_completion", "text"} or len(found.formats) > 1:
            read = ", ".join(f"{TITLES[name]}: {n:,} rows" for name, n in found.formats.items())
            yield f"{self.path}: read as {read}"
        if found.roles:
            renamed = ", ".join(f"{old} as {new} ({n:,})" for (old, new), n in sorted(found.roles.items()))
            yield f"{self.path}: roles of messages read: {renamed}"
        if found.nulls:
            where = ", ".join(f"{name} ({n:,} rows)" for name, n in sorted(found.nulls.items()))
            yield (
                f"{self.path}: keys that are null are left out in {where}, as tables add them; to learn a null, write "
                "tools or arguments as JSON text"
            )
        for what, unused in (("columns", False), ("keys of messages", True)):
            names = sorted(name for name in found.unused if ("[]." in name) is unused)
            if names:
                counted = ", ".join(
                    name
                    if found.unused[name] == total
                    else f"{name} ({found.unused[name]:,} of {total:,} rows)"
                    for name in names
                )
                yield f"{self.path}: {what} not used: {counted}"


def read_source(
    path: str, *, split: str = "train", domain: str | None = None, format: str | None = None
) -> Source:
    """Read a file or a hub data set.

    Args:
        path: ``.jsonl``, ``.ndjson`` or ``.json`` (a list, or lines), each also ``.gz``; ``.parquet``; or a hub id for
            `datasets.load_dataset`.
        split: Split of a hub data set.
        domain: Domain of all rows; by default each row's own ``domain``.
        format: Name of the rows' format, see `formats.TITLES`; by default recognised by the columns.
    Raises:
        DataError: If the source cannot be read, is empty, or has rows that cannot be used; one problem for all rows
            with the same fault, ten at most.
    """
    rows: list[Row] = []
    found = Found()
    faults: dict[tuple[str, str], list[tuple[str, RowFault]]] = {}
    for where, record in records(path, split):
        try:
            rows.append(read_row(record, where, found, domain=domain, wanted=format))
        except RowFault as fault:
            faults.setdefault(fault.kind, []).append((where, fault))
    if not rows and not faults:
        rule = "the data must have at least one row"
        raise DataError([Problem(path, "rows", rule, "name a file with rows")])
    if faults:
        total = len(rows) + sum(map(len, faults.values()))
        raise DataError([_problem(same, total) for same in list(faults.values())[:_MAX_PROBLEMS]])
    return Source(path, rows, found)


def _problem(same: Sequence[tuple[str, RowFault]], total: int) -> Problem:
    """One problem for all rows with the same fault."""
    where, first = same[0]
    rule = first.rule + (f": {first.detail}" if first.detail else "")
    if len(same) == total > 1:
        rule += f"; the same in all {total:,} rows"
    elif len(same) > 1:
        places = [place.rpartition(":")[2].removeprefix(" row ") for place, _ in same[1 : _PLACES + 1]]
        more = ", ..." if len(same) > _PLACES + 1 else ""
        rule += f"; the same in {len(same) - 1:,} more of {total:,} rows: {', '.join(places)}{more}"
    return Problem(where, first.key, rule, first.remedy, first.value)
