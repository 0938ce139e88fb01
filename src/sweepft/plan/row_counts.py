"""Number and length of the rows: counted, measured on a sample, or assumed.

Rows are read only if all files are on this machine. A child process (``python -m sweepft.plan.row_counts``) tokenises a
sample, so this process imports neither transformers nor torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from sweepft.data import Prepared
from sweepft.spec import SweepSpec, from_dict

TOKENS_ASSUMED: Final = 600
_SAMPLED: Final = 512


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
    """

    train: int | None
    validation: int | None
    tokens: float
    targets: float
    longest: int
    source: str
    known: bool
    trouble: str = ""


def count_rows(spec: SweepSpec, tokens: float | None) -> RowCount:
    """Count the rows and tokenise a sample in a child process, if data and tokenizer are on this machine.

    ``tokens``, the mean tokens per row given by the user, overrides the measured length.
    """
    paths = [s.path for s in spec.data.train] + [h.path for h in spec.data.validation if h.path is not None]
    if not all(Path(path).is_file() for path in paths):
        return assumed_rows(spec, tokens)
    done = subprocess.run(
        [sys.executable, "-m", "sweepft.plan.row_counts"],
        input=json.dumps(spec.to_dict()),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:  # no tokenizer, or invalid rows: continue with assumptions
        words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return replace(assumed_rows(spec, tokens), trouble=f"; the rows could not be tokenised: {words}")
    found = RowCount(**json.loads(done.stdout.splitlines()[-1]))
    return found if tokens is None else _with_tokens(found, spec, tokens)


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
    return RowCount(train.rows, validation, tokens, targets, train.longest, "tokenised", known=True)


def _with_tokens(found: RowCount, spec: SweepSpec, tokens: float) -> RowCount:
    given = assumed_rows(spec, tokens, found.train)
    return RowCount(
        found.train, found.validation, given.tokens, given.targets, given.longest, given.source, False
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


def _main() -> None:
    """Read a spec from stdin; write a RowCount to stdout."""
    from sweepft.data.encode import Encoder
    from sweepft.data.split import split_data
    from sweepft.data.tokenizer import load_tokenizer

    spec = from_dict(json.load(sys.stdin))
    split = split_data(spec.data, remote=False)
    rows = split.train
    sample = [rows[i * len(rows) // _SAMPLED] for i in range(_SAMPLED)] if len(rows) > _SAMPLED else rows
    loaded = load_tokenizer(spec.model, chats=any(row.form == "chat" for row in sample))
    encoder = Encoder(loaded.tokenizer, loaded.chat, spec.data.max_length, spec.data.over_length)
    encoded = list(encoder.encode(sample))
    lengths = [len(ids) for ids, _, _ in encoded]
    kept = len(encoded) / len(sample)
    every = len(sample) == len(rows)
    count = RowCount(
        train=round(kept * len(rows)),
        validation=sum(len(held) for held in split.validation.values()),
        tokens=sum(lengths) / len(lengths),
        targets=sum(int(mask.sum()) for _, mask, _ in encoded) / len(lengths),
        longest=max(lengths) if every else spec.data.max_length,
        source=f"{'all' if every else 'a sample of'} {len(sample):,} rows tokenised",
        known=True,
    )
    print(json.dumps(asdict(count)))  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    _main()
