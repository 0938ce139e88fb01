"""From a spec's sources to rows: limits, validation fractions, and no example in both training and another set.

Rows are compared by content, not by position, so a duplicate of a validation example cannot stay in training. `check`
is the row-level part of validating a spec: it reads every local file, without a tokenizer and without torch.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sweepft.data.files import is_local
from sweepft.data.order import SampleOrder
from sweepft.data.outcomes import check_lost, without_targets
from sweepft.data.read import location_of, options_of, read_source
from sweepft.data.rows import Row
from sweepft.errors import DataError, Problem
from sweepft.spec import domain_problems, is_data_key
from sweepft.spec.sections import Data, TestSource, TrainSource, Validation
from sweepft.spec.sweep import SweepSpec

_SHOWN: Final = 5


@dataclass(frozen=True)
class SourceCount:
    """What was found in one source.

    Attributes:
        kind: ``train``, ``validation`` or ``test``.
        name: The set's name; for training sources the number of the source.
        path: Where it is.
        rows: Rows in the source, before any limit.
        used: Rows used after limit, overlap and validation split.
        duplicates: Rows that repeat an earlier one of the same source.
        skipped: Whether it was not read because it is not on this machine.
        formats: Rows by format, as read.
    """

    kind: str
    name: str
    path: str
    rows: int = 0
    used: int = 0
    duplicates: int = 0
    skipped: bool = False
    formats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataCheck:
    """What reading all local sources found.

    Attributes:
        sources: One entry a source, in the order of the spec.
        train_rows: Rows left to train on.
        overlap_dropped: Training rows dropped because they are also in a validation or test set.
        warnings: Warnings for the user, one sentence each.
        notes: What was read as what and which columns are not used, one sentence each.
    """

    sources: tuple[SourceCount, ...]
    train_rows: int
    overlap_dropped: int = 0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Split:
    """Rows by their use.

    Attributes:
        sources: Rows to train on, of each training source.
        validation: Rows of each validation set, in the order of the spec.
        test: Rows of each test set.
        check: The counts.
    """

    sources: list[list[Row]]
    validation: dict[str, list[Row]]
    test: dict[str, list[Row]]
    check: DataCheck

    @property
    def train(self) -> list[Row]:
        """Rows to train on."""
        return [row for rows in self.sources for row in rows]

    def sets(self) -> Iterator[RowSet]:
        """Every source and set that has rows: training sources first, then validation and test sets."""
        paths = [source.path for source in self.check.sources if source.kind == "train"]
        for i, rows in enumerate(self.sources):
            alone = len(self.sources) == 1
            name = "training data" if alone else f"training source {i} ({paths[i]})"
            yield RowSet("train", name, "data.train" if alone else f"data.train.{i}", rows)
        for kind, sets in (("validation", self.validation), ("test", self.test)):
            for name, rows in sets.items():
                yield RowSet(kind, f"{kind} set {name}", f"data.{kind}", rows)


class RowSet(NamedTuple):
    """The rows of a training source, or of a validation or test set, with its name and its key in the spec."""

    kind: str
    name: str
    key: str
    rows: list[Row]


@dataclass
class _Loaded:
    kind: str
    name: str
    path: str
    rows: list[Row]
    found: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    formats: Mapping[str, int] = field(default_factory=dict)
    keys: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [row.key() for row in self.rows]


def check(spec: SweepSpec) -> DataCheck:
    """Read and count every local row of a spec's data.

    Sources that are not on this machine are skipped and marked as such.

    Raises:
        DataError: Broken or empty files; training rows that are also in a validation or test set, unless
            ``data.overlap`` is ``drop``; no rows left to train on; more than ``data.max_lost`` of a set without
            anything to learn; phases or weights of domains without rows.
    """
    split = split_data(spec.data, remote=False)
    if not any(source.skipped for source in split.check.sources if source.kind == "train"):
        check_domains(spec, tuple(dict.fromkeys(row.domain or "" for row in split.train)))
    found = [without_targets(name, key, rows) for _, name, key, rows in split.sets() if rows]
    check_lost(found, spec.data.max_lost)
    outcomes = [warning for one in found for warning in one.warnings()]
    return replace(split.check, warnings=(*split.check.warnings, *outcomes))


def check_domains(spec: SweepSpec, domains: Sequence[str]) -> None:
    """Check phases and weights against the domains of the training rows.

    Args:
        spec: The sweep.
        domains: Domains of the training rows; the empty string stands for rows without one.
    Raises:
        DataError: With every problem found.
    """
    swept = {key: [v for _, v in d.examples()] for key, d in spec.search.space.items() if is_data_key(key)}
    faults = domain_problems(spec.data.curriculum, swept, domains)
    problems = [Problem("data", ".".join(map(str, path)), rule, remedy) for path, rule, remedy in faults]
    if problems:
        raise DataError(problems)


def split_data(data: Data, *, remote: bool = True) -> Split:
    """Read all sources, apply limits, drop or refuse overlap, and take the validation fractions.

    A fraction of ``f`` takes ``round(f * different examples)``, at least one, chosen by `data.seed`,
    the set's name and the example's content: adding rows to a file moves few others. All copies of a validation
    example leave training; the set holds one.

    Args:
        data: The spec's section.
        remote: Whether to load hub data sets too.
    Raises:
        DataError: See `check`; the problems of all sources at once.
    """
    train, held, test = _load_all(data, remote)
    warnings = _shared_by(held, test)
    kept, dropped = _without_overlap(train, [*held, *test], data.overlap)
    held_rows = {source.name: source.rows for source in held}
    all_here = all(source.rows for source in train)
    for h in data.validation:
        if h.fraction is not None:
            held_rows[h.name], kept = _take_fraction(kept, h, data.seed, all_here)
    if not kept and all_here:
        remedy = "give more rows, a smaller fraction, or fewer overlapping rows"
        raise DataError([Problem("data", "data.train", "no rows are left to train on", remedy)])
    left = {id(row) for row, _ in kept}
    sources = [[row for row in source.rows if id(row) in left] for source in train]
    counts = [_count(source, len(rows)) for source, rows in zip(train, sources, strict=True)]
    warnings += [
        f"{c.path}: {c.duplicates} of {c.rows} rows repeat an earlier one" for c in counts if c.duplicates
    ]
    own = {source.name: _count(source, len(source.rows)) for source in held}
    for h in data.validation:
        n = len(held_rows[h.name])
        counts.append(own.get(h.name) or SourceCount("validation", h.name, "data.train", rows=n, used=n))
    counts += [_count(source, len(source.rows)) for source in test]
    warnings += dict.fromkeys(warning for source in (*train, *held, *test) for warning in source.warnings)
    notes = dict.fromkeys(note for source in (*train, *held, *test) for note in source.notes)
    done = DataCheck(tuple(counts), len(kept), dropped, tuple(warnings), tuple(notes))
    validation = {h.name: held_rows[h.name] for h in data.validation}
    return Split(sources, validation, {t.name: t.rows for t in test}, done)


def test_rows(data: Data) -> dict[str, list[Row]]:
    """Rows of each test set, after its limit.

    Raises:
        DataError: If a set cannot be read.
    """
    tests_only = data.model_copy(update={"train": (), "validation": ()})
    return {test.name: test.rows for test in _load_all(tests_only, remote=True)[2]}


def _load_all(data: Data, remote: bool) -> tuple[list[_Loaded], list[_Loaded], list[_Loaded]]:
    problems: list[Problem] = []

    def load(kind: str, name: str, source: TrainSource | Validation | TestSource) -> _Loaded:
        path = source.path or ""
        if not remote and not is_local(path):
            return _Loaded(kind, name, path, [], 0)
        options = options_of(source)
        wanted = None if isinstance(source, TestSource) else source.domains
        try:
            read = read_source(
                location_of(source), options if wanted is None else replace(options, domain=None)
            )
            rows = read.rows
            if wanted is not None:
                domain = options.domain
                rows = [replace(row, domain=domain or row.domain) for row in _of_domains(rows, wanted, path)]
        except DataError as error:
            problems.extend(error.problems)
            return _Loaded(kind, name, path, [], 0)
        found = len(rows)
        if source.limit is not None and source.limit < found:
            rows = [rows[i] for i in sorted(SampleOrder(found, data.seed).indices(0, source.limit))]
        said = tuple(read.notes()), tuple(read.warnings()), dict(read.reading.formats)
        return _Loaded(kind, name, path, rows, found, *said)

    train = [load("train", str(i), source) for i, source in enumerate(data.train)]
    held = [load("validation", h.name, h) for h in data.validation if h.path is not None]
    test = [load("test", t.name, t) for t in data.test]
    if problems:
        raise DataError(problems)
    return train, held, test


def _of_domains(rows: Sequence[Row], wanted: Sequence[str], where: str, all_here: bool = True) -> list[Row]:
    """Rows of the domains that match; each name or pattern must match some, if all rows were read."""
    there = dict.fromkeys(row.domain for row in rows if row.domain is not None)
    chosen: set[str] = set()
    problems = []
    for pattern in wanted:
        found = [name for name in there if fnmatch.fnmatchcase(name, pattern)]
        chosen.update(found)
        if not found and all_here:
            some = ", ".join(list(there)[:12]) + (", ..." if len(there) > 12 else "")
            remedy = f"the domains are: {some}" if there else "give the rows a domain, or leave domains out"
            problems.append(Problem(where, "domains", "no row has such a domain", remedy, pattern))
    if problems:
        raise DataError(problems)
    return [row for row in rows if row.domain in chosen]


def _without_overlap(
    train: Sequence[_Loaded], others: Sequence[_Loaded], overlap: str
) -> tuple[list[tuple[Row, bytes]], int]:
    outside = {key: row for source in others for row, key in zip(source.rows, source.keys, strict=True)}
    kept: list[tuple[Row, bytes]] = []
    both: list[tuple[Row, Row]] = []
    for source in train:
        for row, key in zip(source.rows, source.keys, strict=True):
            if key in outside:
                both.append((row, outside[key]))
            else:
                kept.append((row, key))
    if both and overlap == "error":
        rule = f"{len(both)} training rows are also in a validation or test set"
        remedy = (
            "write data.overlap: drop to leave them out of training, or take them out of one of the files"
        )
        raise DataError(
            [
                Problem(row.where, "data.overlap", f"{rule}; this one is also {other.where}", remedy)
                for row, other in both[:_SHOWN]
            ]
        )
    return kept, len(both)


def _take_fraction(
    rows: list[tuple[Row, bytes]], validation: Validation, seed: int, all_here: bool
) -> tuple[list[Row], list[tuple[Row, bytes]]]:
    fraction, limit, name = validation.fraction or 0.0, validation.limit, validation.name
    candidates = rows
    if validation.domains is not None:
        wanted = _of_domains([row for row, _ in rows], validation.domains, f"validation set {name}", all_here)
        inside = {id(row) for row in wanted}
        candidates = [(row, key) for row, key in rows if id(row) in inside]
    different = dict.fromkeys(key for _, key in candidates)
    salt = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
    ranked = sorted(different, key=lambda key: hashlib.blake2b(key, key=salt, digest_size=16).digest())
    count = max(1, round(fraction * len(ranked)))
    chosen = set(ranked[:count])
    shown = set(ranked[: min(count, limit or count)])
    held: dict[bytes, Row] = {}
    rest = []
    for row, key in rows:
        if key not in chosen:
            rest.append((row, key))
        elif key in shown:
            held.setdefault(key, row)
    if rows and not rest:
        rule = f"a fraction of {fraction:g} of {len(ranked)} different rows leaves none to train on"
        raise DataError(
            [Problem("data", f"data.validation.{name}", rule, "give more rows or a smaller fraction")]
        )
    return list(held.values()), rest


def _shared_by(held: Sequence[_Loaded], test: Sequence[_Loaded]) -> list[str]:
    """Warnings of validation rows that are also test rows: the objective then depends on the test set."""
    warnings = []
    for t in test:
        test_set = set(t.keys)
        for h in held:
            n = sum(key in test_set for key in h.keys)
            if n:
                warnings.append(f"validation set {h.name}: {n} of its rows are also in test set {t.name}")
    return warnings


def _count(source: _Loaded, used: int) -> SourceCount:
    return SourceCount(
        kind=source.kind,
        name=source.name,
        path=source.path,
        rows=source.found,
        used=used,
        duplicates=len(source.keys) - len(set(source.keys)),
        skipped=not source.rows,
        formats=source.formats,
    )
