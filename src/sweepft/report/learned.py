"""What a sweep learned from earlier ones (``search.learn_from``)."""

from __future__ import annotations

from typing import Any

from sweepft.ledger import SweepState


def learned_summary(sweep: SweepState) -> dict[str, Any] | None:
    """The earlier sweeps that the sampler was shown; None without any.

    Returns:
        ``sweeps``: rows ``source, name, trials, notes`` (what was not used, in sentences); ``text``.
    """
    learned = sweep.header.get("learned")
    if not learned or not learned["sweeps"]:
        return None
    rows = [
        {**{key: entry[key] for key in ("source", "name", "notes")}, "trials": len(entry["trials"])}
        for entry in learned["sweeps"]
    ]
    parts = [f"{row['name']} ({row['trials']} trials, {row['source']})" for row in rows]
    text = f"The sampler began with the rankings of earlier sweeps: {', '.join(parts)}."
    return {"sweeps": rows, "text": text}


def learned_lines(sweep: SweepState) -> list[str]:
    """The same for a terminal: a line for each earlier sweep."""
    found = learned_summary(sweep)
    return [
        " ".join([f"learning from {row['source']}: {row['trials']} trials of {row['name']}.", *row["notes"]])
        for row in (found["sweeps"] if found else ())
    ]
