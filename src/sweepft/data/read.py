"""Read a source of instruction data into rows of one normal form. No torch, no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sweepft.data.files import Location, records
from sweepft.data.formats import TITLES, read_row
from sweepft.data.reading import Options, Reading, RowFault
from sweepft.data.rows import Row
from sweepft.errors import DataError, Problem
from sweepft.spec.sections import TestSource, TrainSource, Validation

_MAX_PROBLEMS: Final = 10
_PLACES: Final = 5


@dataclass(frozen=True)
class Source:
    """The rows of a source.

    Attributes:
        path: Where they come from.
        rows: At least one row, in file order.
        reading: Formats, unused columns and renamed roles.
    """

    path: str
    rows: list[Row]
    reading: Reading = field(default_factory=Reading)

    def notes(self) -> Iterator[str]:
        """What was read as what, and what was not used; one sentence each."""
        found, total = self.reading, len(self.rows)
        read = ", ".join(f"{TITLES[name]}: {_number(n, _UNITS[name])}" for name, n in found.formats.items())
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

    def warnings(self) -> Iterator[str]:
        """What is unusual about the turns of rows, with the place of one such row; one sentence each."""
        for what, (n, where) in self.reading.odd.items():
            yield f"{self.path}: {n:,} of {_number(len(self.rows), 'row')} {what}, e.g. {where}"


def location_of(source: TrainSource | Validation | TestSource) -> Location:
    """Where the rows of a source of the spec are."""
    usual = "test" if isinstance(source, TestSource) else "train"
    return Location(source.path or "", source.config, source.revision, source.split, usual)


def options_of(source: TrainSource | Validation | TestSource) -> Options:
    """How the rows of a source of the spec are read."""
    return Options(
        domain=source.domain if isinstance(source, TrainSource) else None,
        format=source.format,
        columns=source.columns or {},
        system=source.system,
        roles=source.roles or {},
        train_on=source.train_on,
    )


_UNITS: Final = {"messages": "conversation", "sharegpt": "conversation", "text": "text"} | dict.fromkeys(
    ("prompt_completion", "alpaca", "question_answer"), "row"
)


def _number(n: int, unit: str) -> str:
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def read_source(location: Location | str, options: Options | None = None) -> Source:
    """Read a file, several of them, or a hub data set.

    Args:
        location: Where the rows are; a path or hub id stands for the training split of it.
        options: How they are read; by default all by themselves.
    Raises:
        DataError: If the source cannot be read, is empty, or has rows that cannot be used; one problem for all rows
            with the same fault, ten at most.
    """
    location = Location(location) if isinstance(location, str) else location
    path = location.path
    rows: list[Row] = []
    reading = Reading(options or Options())
    faults: dict[tuple[str, str], list[tuple[str, RowFault]]] = {}
    for where, record in records(location):
        try:
            rows.append(read_row(record, where, reading))
        except RowFault as fault:
            faults.setdefault(fault.kind, []).append((where, fault))
    if not rows and not faults:
        rule = "the data must have at least one row"
        raise DataError([Problem(path, "rows", rule, "name a file with rows")])
    if faults:
        total = len(rows) + sum(map(len, faults.values()))
        raise DataError([_problem(same, total) for same in list(faults.values())[:_MAX_PROBLEMS]])
    return Source(path, rows, reading)


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
