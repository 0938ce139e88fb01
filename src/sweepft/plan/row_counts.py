"""Number and length of the rows: counted, measured on a sample, or assumed.

Rows are read only if all files are on this machine. A child process tokenises a sample, so this process imports neither
transformers nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sweepft.data import Prepared, survey_in_child
from sweepft.data.outcomes import LOST
from sweepft.errors import DataError, SweepftError
from sweepft.spec import SweepSpec

TOKENS_ASSUMED: Final = 600


@dataclass(frozen=True)
class RowCount:
    """Size of a sweep's data.

    Attributes:
        train: Training rows; None if unknown.
        validation: Rows of all validation sets; None if unknown.
        tokens: Mean tokens per training row, including the prompt.
        targets: Mean tokens with a loss per training row.
        longest: Tokens of the longest row, at most ``data.max_length``.
        source: Source of the numbers, in words.
        known: Whether lengths were measured rather than assumed.
        trouble: Why local rows could not be tokenised; usually empty.
        left_out: Training rows that cannot be used, extrapolated from the sample.
        warnings: Of the rows, as a run prints them.
        notes: What was read as what, and which columns are not used.
    """

    train: int | None
    validation: int | None
    tokens: float
    targets: float
    longest: int
    source: str
    known: bool
    trouble: str = ""
    left_out: int = 0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def count_rows(spec: SweepSpec, tokens: float | None) -> RowCount:
    """Count the rows and tokenise a sample in a child process, if data and tokenizer are on this machine.

    ``tokens``, the mean tokens per row given by the user, overrides the measured length.

    Raises:
        DataError: If the sweep could not start with these rows.
    """
    paths = [s.path for s in spec.data.train] + [h.path for h in spec.data.validation if h.path is not None]
    if not all(Path(path).is_file() for path in paths):
        return assumed_rows(spec, tokens)
    try:
        found = survey_in_child(spec)
    except SweepftError as error:
        if not isinstance(error, DataError) or "model.path" in error.keys:  # no tokenizer at hand
            words = str(error).splitlines()[0]
            return replace(assumed_rows(spec, tokens), trouble=f"; the rows could not be tokenised: {words}")
        raise
    counted = RowCount(
        train=found.train,
        validation=found.validation,
        tokens=found.tokens,
        targets=found.targets,
        longest=found.longest,
        source=f"{'all' if found.every else 'a sample of'} {found.tokenised:,} rows tokenised",
        known=True,
        left_out=found.left_out,
        warnings=found.warnings,
        notes=found.notes,
    )
    return counted if tokens is None else _with_tokens(counted, spec, tokens)


def assumed_rows(spec: SweepSpec, tokens: float | None, train: int | None = None) -> RowCount:
    """The size of data that are not on this machine: the user's numbers, or defaults."""
    longest = spec.data.max_length
    if tokens is None:
        tokens, source = float(min(TOKENS_ASSUMED, longest)), "assumed; set with --tokens-per-sample"
    else:
        tokens, source = min(tokens, float(longest)), "--tokens-per-sample"
    return RowCount(train, _validation(spec, train), tokens, tokens / 2, longest, source, known=False)


def prepared_rows(prepared: Prepared) -> RowCount:
    """Exact size of prepared data."""
    train = prepared.train
    validation = sum(h.data.rows for h in prepared.validation)
    tokens, targets = train.tokens / train.rows, train.targets / train.rows
    left_out = sum(n for outcome, n in train.counts.items() if outcome in LOST)
    return RowCount(
        train=train.rows,
        validation=validation,
        tokens=tokens,
        targets=targets,
        longest=train.longest,
        source="tokenised",
        known=True,
        left_out=left_out,
        warnings=prepared.warnings,
        notes=prepared.notes,
    )


def _with_tokens(found: RowCount, spec: SweepSpec, tokens: float) -> RowCount:
    given = assumed_rows(spec, tokens, found.train)
    return replace(
        found,
        tokens=given.tokens,
        targets=given.targets,
        longest=given.longest,
        source=given.source,
        known=False,
    )


def _validation(spec: SweepSpec, train: int | None) -> int | None:
    """Validation rows, as far as known from limits and fractions."""
    total = 0
    for held in spec.data.validation:
        rows = None if held.fraction is None or train is None else round(held.fraction * train)
        if held.limit is not None:
            rows = held.limit if rows is None else min(rows, held.limit)
        if rows is None:
            return None
        total += rows
    return total
