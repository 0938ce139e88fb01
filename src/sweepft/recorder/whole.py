"""Results that a crash cut in two, left out: the rows that whoever goes on with a sweep, or replays it, may rely on."""

from __future__ import annotations

from collections.abc import Sequence

from sweepft.recorder.rows import Row

__all__ = ["whole_results"]


def whole_results(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """Leave out results that a crash cut in two.

    A result is written as ``steps``, ``eval``, ``verdict`` and ``cost`` rows in this order; without a ``cost`` row it
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
        elif kind in ("eval", "verdict") and name in pending:
            pending[name].append(i)
        elif kind == "cost" and name in pending:
            reported[name] = int(rows[pending.pop(name)[0]]["history"]["samples_seen"][-1])
    for indices in pending.values():
        dropped.update(indices)
    return [row for i, row in enumerate(rows) if i not in dropped], reported
