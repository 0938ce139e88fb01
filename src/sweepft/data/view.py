"""What the rows of a spec become: counts, lengths, and single rows with the tokens that are learned.

All of it is plain data, made in the child process that has the tokenizer, and shown by the command line.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from sweepft.data.encode import Encoder
from sweepft.data.outcomes import KEPT, LOST
from sweepft.data.rows import Row
from sweepft.data.split import RowSet, split_data
from sweepft.data.survey import new_encoder
from sweepft.data.tokenizer import LoadedTokenizer, load_tokenizer
from sweepft.errors import DataError, Problem
from sweepft.spec.sweep import SweepSpec

SAMPLED: Final = 2048
_BINS: Final = 12


def view_data(
    spec: SweepSpec, *, rows: Sequence[str] = (), first: int = 1, every: bool = False
) -> dict[str, Any]:
    """Counts of all sources and sets, and single rows.

    Args:
        spec: The sweep.
        rows: Rows to show: numbers of training rows from 1 on, or places as messages name them (``d.jsonl:17``).
        first: How many of the first training rows to show if `rows` is empty.
        every: Tokenise all rows instead of a sample of each set.
    Returns:
        ``sources``, ``sets``, ``rows``, ``notes`` and ``warnings``, as plain data.
    Raises:
        DataError: If the data or the tokenizer cannot be used, or there is no such row. Rows that are left out are no
            error here, however many they are.
    """
    split = split_data(spec.data, remote=True)
    sets = [one for one in split.sets() if one.rows]
    loaded = load_tokenizer(spec.model, chats=any(row.form == "chat" for one in sets for row in one.rows))
    chosen = [_find(sets, name) for name in rows] or [*_training(sets)][:first]
    return {
        "sources": [asdict(source) for source in split.check.sources],
        "sets": [_set(spec, loaded, one, every) for one in sets],
        "rows": [_row(spec, loaded, one, i) for one, i in chosen],
        "overlap_dropped": split.check.overlap_dropped,
        "notes": list(split.check.notes),
        "warnings": [*split.check.warnings, *loaded.warnings],
    }


def _training(sets: Sequence[RowSet]) -> Iterator[tuple[RowSet, int]]:
    return ((one, i) for one in sets if one.kind == "train" for i in range(len(one.rows)))


def _find(sets: Sequence[RowSet], name: str) -> tuple[RowSet, int]:
    """A row by its number among the training rows, or by its place."""
    if name.isdigit():
        training = list(_training(sets))
        if 1 <= int(name) <= len(training):
            return training[int(name) - 1]
        rule = f"there are {len(training):,} training rows"
        raise DataError([Problem("--row", "row", rule, "give a number from 1 on, or a place", name)])
    for one in sets:
        for i, row in enumerate(one.rows):
            if row.where == name or row.where.endswith(f"/{name}"):
                return one, i
    rule = "no row that is used has this place"
    remedy = "name a file and line as messages do (rows.jsonl:17), or the number of a training row"
    raise DataError([Problem("--row", "row", rule, remedy, name)])


def _set(spec: SweepSpec, loaded: LoadedTokenizer, one: RowSet, every: bool) -> dict[str, Any]:
    rows = one.rows
    if len(rows) > SAMPLED and not every:
        rows = [rows[i * len(rows) // SAMPLED] for i in range(SAMPLED)]
    encoder = new_encoder(spec, loaded)
    encoded = list(encoder.encode(rows))
    lengths = np.array([len(ids) for ids, _, _ in encoded], np.int64)
    targets = np.array([np.count_nonzero(mask) for _, mask, _ in encoded], np.int64)
    return {
        "kind": one.kind,
        "name": one.name,
        "rows": len(one.rows),
        "tokenised": len(rows),
        "domains": dict(Counter(row.domain or "" for row in one.rows)),
        "duplicates": len(one.rows) - len({row.key() for row in one.rows}),
        "outcomes": {
            name: {
                "rows": n,
                "left_out": name in LOST,
                "meaning": {**LOST, **KEPT}[name],
                "example": encoder.example[name],
            }
            for name, n in encoder.counts.items()
            if name != "kept"
        },
        "kept": int(encoder.counts["kept"]),
        "tokens": _quantiles(lengths),
        "targets": _quantiles(targets),
        "histogram": _histogram(lengths),
    }


def _quantiles(sizes: Any) -> dict[str, float] | None:
    """Mean and some quantiles of tokens per row; None without rows."""
    if not len(sizes):
        return None
    points = {"median": 50, "p90": 90, "p99": 99}
    return {
        "mean": round(float(sizes.mean()), 1),
        **{name: int(np.percentile(sizes, q)) for name, q in points.items()},
        "longest": int(sizes.max()),
    }


def _histogram(lengths: Any) -> list[dict[str, int]]:
    """Rows by tokens, in bins of equal width: ``{from, to, rows}``, both ends inside."""
    if not len(lengths):
        return []
    width = max(1, -(-int(lengths.max()) // _BINS))
    counts = np.bincount((lengths - 1) // width)
    return [{"from": i * width + 1, "to": (i + 1) * width, "rows": int(n)} for i, n in enumerate(counts)]


def _row(spec: SweepSpec, loaded: LoadedTokenizer, one: RowSet, i: int) -> dict[str, Any]:
    row = one.rows[i]
    encoder = new_encoder(spec, loaded)
    encoded = list(encoder.encode([row]))
    kept = encoded[0] if encoded else None
    return {
        "set": one.name,
        "number": i + 1,
        "where": row.where,
        "domain": row.domain,
        "tokens": len(kept[0]) if kept else None,
        "targets": int(np.count_nonzero(kept[1])) if kept else None,
        "outcomes": {name: encoder.example[name] for name in encoder.counts if name != "kept"},
        "parts": _parts(encoder, row, kept)
        if kept
        else [{"text": row.written(), "learned": False, "weight": 0.0}],
    }


def _parts(encoder: Encoder, row: Row, kept: Any) -> list[dict[str, Any]]:
    """The text of a row in runs of tokens with the same weight in the loss; 0 for those that are not learned."""
    ids, mask, _ = kept
    cuts = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    if isinstance(row.content, str):
        decode = encoder.tokenizer.decode
        texts = [decode(ids[a:b], clean_up_tokenization_spaces=False) for a, b in itertools.pairwise(cuts)]
    else:
        assert encoder.chat is not None
        text = encoder.chat.render(row.content, row.tools, row.variables).text
        offsets = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        ends = [0, *(offsets[cut][0] for cut in cuts[1:-1]), offsets[len(ids) - 1][1]]
        texts = [text[a:b] for a, b in itertools.pairwise(ends)]
    return [
        {"text": text, "learned": bool(mask[a]), "weight": float(mask[a])}
        for text, a in zip(texts, cuts, strict=False)
    ]
