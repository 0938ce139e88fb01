"""Which rows of a ledger are the search's own: a trial that confirms another one is no candidate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

__all__ = ["candidates"]

_RowT = TypeVar("_RowT", bound=Mapping[str, Any])


def candidates(rows: Iterable[_RowT]) -> Iterator[_RowT]:
    """Rows in order, without those of trials that were trained with fresh seeds to confirm another."""
    aside = set()
    for row in rows:
        if row.get("confirms"):
            aside.add(row["trial_id"])
        if row.get("trial_id") not in aside:
            yield row
