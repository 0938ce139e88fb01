"""What a ledger says about each trial, as far as the search needs it.

One idea: rows in, plain records out; how the rows were stored is the recorder's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrialRecord:
    """One trial of a ledger.

    Attributes:
        trial_id, number, config, origin, study_number: Of its ``trial`` row.
        status: Of its ``end`` row; None when it has not ended.
        reason: Why it ended.
        objective: At full budget, in nats per target token.
        values: Held-out losses by nominal samples.
        parked: Whether it is parked: it has not ended, and nothing is training it.
    """

    trial_id: str
    number: int
    params: dict[str, Any]
    origin: str
    study_number: int | None = None
    status: str | None = None
    reason: str | None = None
    objective: float | None = None
    values: dict[int, float] = field(default_factory=dict)
    paused: bool = False


def nominal_step(rung: float, budget_samples: int) -> int:
    """Where a window lies in samples: the step of a held-out loss in the study, the same for every trial."""
    return round(rung * budget_samples)


def read_records(rows: Iterable[Mapping[str, Any]]) -> list[TrialRecord]:
    """Trials of a ledger in the order of their numbers.

    Args:
        rows: Rows of kinds ``sweep``, ``trial``, ``start``, ``eval``, ``decision`` and ``end`` (others are passed
            over), in order.

    Raises:
        KeyError: If a row names a trial that no earlier row proposed.
    """
    budget = 0
    records: dict[str, TrialRecord] = {}
    for row in rows:
        match row["kind"]:
            case "sweep":
                budget = int(row["budget_samples"])
            case "trial":
                records[row["trial_id"]] = TrialRecord(
                    row["trial_id"],
                    row["number"],
                    dict(row["params"]),
                    row["origin"],
                    row.get("study_number"),
                )
            case "eval":
                value, rung = _finite(row.get("objective")), 1.0 if row.get("final") else row.get("rung")
                if value is not None and rung is not None:
                    records[row["trial_id"]].values.setdefault(nominal_step(rung, budget), value)
            case "end":
                record = records[row["trial_id"]]
                record.status = None if row["status"] == "interrupted" else row["status"]
                record.reason, record.objective = row.get("reason"), _finite(row.get("objective"))
            case "start":  # a trial that was interrupted, or tried again, is running
                record = records[row["trial_id"]]
                record.status = record.reason = record.objective = None
                record.paused = False
            case "decision" if row["action"] == "pause":
                records[row["trial_id"]].paused = True
    return sorted(records.values(), key=lambda record: record.number)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
