"""Look at rows as they will be tokenised, without storing anything: for `sweepft validate` and `sweepft plan`.

A sample of every source and set is tokenised. Where it loses more than ``data.max_lost``, all rows are, so that an
error is never due to the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np

from sweepft.data.base_model import check_base_model
from sweepft.data.cache import TokenRow
from sweepft.data.encode import Encoder
from sweepft.data.outcomes import Outcomes, check_lost
from sweepft.data.split import RowSet, split_data
from sweepft.data.tokenizer import LoadedTokenizer, load_tokenizer
from sweepft.errors import DataError, Problem
from sweepft.spec.sweep import SweepSpec

SAMPLED: Final = 512


@dataclass(frozen=True)
class Survey:
    """What tokenising a sample of the data showed.

    Attributes:
        train: Training rows that can be used, extrapolated from the sample.
        validation: The same of all validation sets.
        left_out: Training rows that cannot be used, extrapolated.
        tokenised: Training rows that were tokenised.
        every: Whether these are all training rows.
        tokens: Mean tokens per usable training row.
        targets: Mean tokens with a loss per usable training row.
        longest: Tokens of the longest training row; of a sample, ``data.max_length``.
        warnings: As a run of the sweep prints them, with counts of the sample.
        notes: What was read as what, and which columns are not used.
    """

    train: int
    validation: int
    left_out: int
    tokenised: int
    every: bool
    tokens: float
    targets: float
    longest: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`."""
        lists = {name: tuple(found[name]) for name in ("warnings", "notes")}
        return cls(**{**found, **lists})


def survey(spec: SweepSpec, sampled: int = SAMPLED) -> Survey:
    """Read all local rows, and tokenise up to `sampled` of each source and set.

    Raises:
        DataError: As preparing the data would, as far as the sample shows it: rows that cannot be read, a tokenizer or
            template that cannot be used, more than ``data.max_lost`` of a source left out, rows too long for the model.
    """
    split = split_data(spec.data, remote=False)
    sets = [one for one in split.sets() if one.rows]
    loaded = load_tokenizer(spec.model, chats=any(row.form == "chat" for one in sets for row in one.rows))
    about_model = check_base_model(spec, loaded.new_ids)
    found = [(one, *_look(spec, loaded, one, sampled)) for one in sets]
    check_lost([outcomes for _, outcomes, _ in found], spec.data.max_lost)
    for one, _, rows in found:
        check_positions(one.key, max(len(ids) for ids, _, _ in rows), loaded.max_positions, spec)
    train = [(outcomes, rows) for one, outcomes, rows in found if one.kind == "train"]
    kept = sum(outcomes.kept for outcomes, _ in train)
    every = all(outcomes.total is None for outcomes, _ in train)
    longest = max((len(ids) for _, rows in train for ids, _, _ in rows), default=spec.data.max_length)
    return Survey(
        train=kept,
        validation=sum(outcomes.kept for one, outcomes, _ in found if one.kind == "validation"),
        left_out=len(split.train) - kept,
        tokenised=sum(outcomes.rows for outcomes, _ in train),
        every=every,
        tokens=_mean(train, lambda row: len(row[0])),
        targets=_mean(train, lambda row: int(np.count_nonzero(row[1]))),
        longest=longest if every else spec.data.max_length,
        warnings=(
            *split.check.warnings,
            *loaded.warnings,
            *about_model,
            *(warning for _, outcomes, _ in found for warning in outcomes.warnings()),
        ),
        notes=split.check.notes,
    )


def _look(
    spec: SweepSpec, loaded: LoadedTokenizer, one: RowSet, sampled: int
) -> tuple[Outcomes, list[TokenRow]]:
    rows = one.rows
    if len(rows) > sampled:
        some = one._replace(rows=[rows[i * len(rows) // sampled] for i in range(sampled)])
        encoder = new_encoder(spec, loaded)
        encoded = list(encoder.encode(some.rows))
        outcomes = outcomes_of(some, encoder, total=len(rows))
        if outcomes.problem(spec.data.max_lost) is None:
            return outcomes, encoded
    encoder = new_encoder(spec, loaded)
    encoded = list(encoder.encode(rows))
    return outcomes_of(one, encoder), encoded


def _mean(train: Sequence[tuple[Outcomes, list[TokenRow]]], size: Callable[[TokenRow], int]) -> float:
    """Mean over the usable rows of all sources: each source counts by its own number of rows."""
    rows = sum(outcomes.kept for outcomes, _ in train)
    if not rows:  # no training source is on this machine
        return 0.0
    total = sum(outcomes.kept * sum(map(size, encoded)) / len(encoded) for outcomes, encoded in train)
    return total / rows


def new_encoder(spec: SweepSpec, loaded: LoadedTokenizer) -> Encoder:
    """An encoder with counts of its own."""
    return Encoder(loaded.tokenizer, loaded.chat, spec.data.max_length, spec.data.over_length)


def outcomes_of(one: RowSet, encoder: Encoder, total: int | None = None) -> Outcomes:
    """What became of a set's rows in `encoder`."""
    return Outcomes(one.name, one.key, len(one.rows), encoder.counts, encoder.example, total)


def check_positions(key: str, longest: int, positions: int | None, spec: SweepSpec) -> None:
    """Refuse rows that are longer than the model has positions.

    Raises:
        DataError: With the largest ``data.max_length`` the model allows.
    """
    if positions is not None and longest > positions:
        rule = f"the longest row has {longest} tokens, and the model has only {positions} positions"
        remedy = f"write data.max_length: {positions} or less"
        raise DataError([Problem(key, "data.max_length", rule, remedy, spec.data.max_length)])
