"""All trials of a sweep as rules see them: snapshots by rung, final results, trials that ended early.

Values at each rung are kept sorted as trials arrive, so that a rank costs a binary search, whatever the number of
trials.
"""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.audit import audit_weight
from sweepft.early_stopping.curve import Curve, Snapshot
from sweepft.early_stopping.rungs import Rung
from sweepft.early_stopping.trial import Status, TrialRecord

_REMAINING: Final = ("running", "completed")
_OUT: Final = ("paused", "stopped", "diverged")
_SORTED_FIELDS: Final = ("metric", "loss", "log_grad_norm", "block_loss")
_COLUMNS: Final = ("mean_metric", "metric", "metric_stderr", "loss", "block_loss", "log_grad_norm")
_SAMPLE: Final = 200


class Cohort:
    """The trials of one sweep.

    Args:
        mode: ``min`` or ``max``: which way the objective is good.
    """

    def __init__(self, mode: Literal["min", "max"]) -> None:
        self.mode = mode
        self.trials: dict[str, TrialRecord] = {}
        self._at: dict[Rung, dict[str, Snapshot]] = {}
        self._sorted: dict[tuple[Rung, str], list[float]] = {}
        self._finals: dict[str, float] = {}
        self._remaining = 0
        self._tables: dict[Rung, RungTable] = {}
        self._out: Counter[Rung] = Counter()
        self._out_anywhere = 0
        self.changes = 0
        """Grows with every snapshot and change of status: estimates made at an equal count are still right."""

    @property
    def sign(self) -> float:
        """1 or -1: times the objective, larger is better."""
        return 1.0 if self.mode == "max" else -1.0

    def add(self, trial_id: str, params: Mapping[str, Any]) -> TrialRecord:
        """A new trial, or the record of a known one set running again (a retry)."""
        record = self.trials.get(trial_id)
        if record is None:
            record = self.trials[trial_id] = TrialRecord(trial_id, dict(params), len(self.trials))
            self._remaining += 1
        elif record.status in ("failed", "removed"):
            self.set_status(record, "running")
        return record

    def set_status(self, record: TrialRecord, status: Status) -> None:
        """Change a trial's status."""
        self.changes += 1
        self._remaining += (status in _REMAINING) - (record.status in _REMAINING)
        if record.status in _OUT:  # a paused trial resumes, or never will
            self._count_out(record, -1)
        record.status = status
        if status in _OUT:
            self._count_out(record, 1)

    def _count_out(self, record: TrialRecord, by: int) -> None:
        """A trial left the sweep (1) or came back (-1)."""
        self._out_anywhere += by
        for rung in record.snapshots:
            self._out[rung] += by

    def complete(self, record: TrialRecord, final: float | None) -> None:
        """A trial reached its end; ``final`` is its objective, None if it never reported one."""
        self.set_status(record, "completed")
        record.final = final
        if final is not None:
            self._finals[record.trial_id] = final

    def put(self, trial_id: str, rung: Rung, snapshot: Snapshot) -> None:
        """Add a trial's snapshot at a rung, if it has none there."""
        record = self.trials[trial_id]
        if rung in record.snapshots:
            return
        record.snapshots[rung] = snapshot
        self._index(trial_id, rung, snapshot)

    def _index(self, trial_id: str, rung: Rung, snapshot: Snapshot) -> None:
        self.changes += 1
        self._at.setdefault(rung, {})[trial_id] = snapshot
        self._tables.setdefault(rung, RungTable()).add(trial_id, snapshot)
        for name in _SORTED_FIELDS:
            value = getattr(snapshot, name)
            if math.isfinite(value):
                insort(self._sorted.setdefault((rung, name), []), value)

    def at(self, rung: Rung) -> Mapping[str, Snapshot]:
        """Snapshots at a rung, in order of arrival."""
        return self._at.get(rung, {})

    def names_at(self, rung: Rung) -> Sequence[str]:
        """Trials with a snapshot at the rung, in order of arrival."""
        return self._tables[rung].names if rung in self._tables else ()

    def sample_at(self, rung: Rung) -> list[str]:
        """At most 200 of them, evenly by arrival: the cost of a decision must not grow with the sweep."""
        names = self.names_at(rung)
        return list(names[:: len(names) // _SAMPLE + 1]) if len(names) > _SAMPLE else list(names)

    def table_at(self, rung: Rung) -> RungTable:
        """The snapshots at a rung as columns."""
        return self._tables.get(rung) or RungTable()

    def has_news(self, record: TrialRecord) -> bool:
        """Whether 5% more snapshots at its rungs and finished trials are known than when a trial was last judged."""
        return self.seen(record) > 1.05 * record.judged_on

    def seen(self, record: TrialRecord) -> int:
        """Number of snapshots at the rungs where this trial has been, and of finished trials."""
        return sum(len(self.at(w)) for w in record.snapshots) + len(self._finals)

    def rungs(self) -> Sequence[Rung]:
        """Rungs at which at least one trial has been."""
        return list(self._at)

    def ended_before(self, rung: Rung) -> int:
        """Number of trials that ended early without a snapshot at this rung."""
        return self._out_anywhere - self._out[rung]

    @property
    def ended_early(self) -> int:
        """Number of trials stopped, paused or diverged."""
        return self._out_anywhere

    def completed(self) -> list[TrialRecord]:
        """Completed trials with an objective, in order of completion."""
        return [self.trials[t] for t in self._finals]

    def peers(self, rung: Rung, name: str, own: float) -> int:
        """Number of *other* trials that reported ``name`` at the rung; ``own`` is this trial's value there."""
        return len(self._sorted.get((rung, name), ())) - int(math.isfinite(own))

    def share_below(self, rung: Rung, name: str, own: float) -> float:
        """Share of the other trials whose value is below ``own``, ties counted half; NaN without any."""
        values = self._sorted.get((rung, name), [])
        others = self.peers(rung, name, own)
        if others <= 0 or not math.isfinite(own):
            return math.nan
        left, right = bisect_left(values, own), bisect_right(values, own)
        return (left + 0.5 * (right - left - 1)) / others

    def median_of_others(self, rung: Rung, name: str, own: float) -> float:
        """Median of the other trials' values at the rung; NaN without any."""
        values = self._sorted.get((rung, name), [])
        hole = bisect_left(values, own) if math.isfinite(own) else len(values)
        n = self.peers(rung, name, own)
        if n <= 0:
            return math.nan

        def pick(index: int) -> float:
            return values[index if index < hole else index + 1]

        return pick(n // 2) if n % 2 else 0.5 * (pick(n // 2 - 1) + pick(n // 2))

    def share_worse(self, rung: Rung, record: TrialRecord) -> float:
        """Share of the other trials with a worse objective at the rung, ties counted half; NaN without any. A trial is
        given the benefit of one standard error of its own objective.
        """
        snapshot = record.snapshots[rung]
        noise = self.sign * snapshot.metric_stderr if math.isfinite(snapshot.metric_stderr) else 0.0
        if not noise:
            below = self.share_below(rung, "metric", snapshot.metric)
            return 1.0 - below if self.mode == "min" else below
        own = self.sign * (snapshot.metric + noise)
        others = [self.sign * s.metric for name, s in self.at(rung).items() if name != record.trial_id]
        known = [value for value in others if math.isfinite(value)]
        return (
            sum((value < own) + 0.5 * (value == own) for value in known) / len(known) if known else math.nan
        )

    def leads(self, rung: Rung, own: float) -> bool:
        """Whether no other trial had a better objective at the rung."""
        values = self._sorted.get((rung, "metric"), [])
        if not values or not math.isfinite(own):
            return False
        return own >= values[-1] if self.mode == "max" else own <= values[0]

    @property
    def finals(self) -> Mapping[str, float]:
        """Final objective of each completed trial, in order of completion."""
        return self._finals

    def latest_finished(self, count: int) -> list[str]:
        """The trials that completed last, so many at most, in order of completion."""
        return list(itertools.islice(reversed(self._finals), count))[::-1]

    @property
    def remaining(self) -> int:
        """Number of trials running or completed."""
        return self._remaining

    def to_state(self) -> dict[str, Any]:
        """JSON-able state, with the order in which trials arrived at rungs and completed."""
        order = {w: {t: i for i, t in enumerate(at)} for w, at in self._at.items()}
        trials = [
            {
                "trial_id": t.trial_id,
                "params": t.params,
                "status": t.status,
                "final": t.final,
                "flagged_at": t.flagged_at,
                "audited": t.audited,
                "lowest_score": t.lowest_score,
                "judged_on": t.judged_on,
                "warmup_steps": t.warmup_steps,
                "losses": t.losses,
                "reached": sorted([w.kind, w.value] for w in t.reached),
                "curve": t.curve.to_state(),
                "snapshots": [
                    [w.kind, w.value, order[w][t.trial_id], s.to_state()] for w, s in t.snapshots.items()
                ],
            }
            for t in self.trials.values()
        ]
        return {"trials": trials, "completed": list(self._finals)}

    @classmethod
    def from_state(cls, mode: Literal["min", "max"], state: Mapping[str, Any]) -> Cohort:
        """The inverse of `to_state`."""
        cohort = cls(mode)
        arrivals = []
        for row in state["trials"]:
            record = cohort.add(row["trial_id"], row["params"])
            record.final = row["final"]
            record.flagged_at, record.audited = row["flagged_at"], row["audited"]
            record.lowest_score = row["lowest_score"]
            record.judged_on = row.get("judged_on", 0)
            record.warmup_steps = row["warmup_steps"]
            record.losses = row.get("losses", {})
            record.reached = {Rung(kind, value) for kind, value in row["reached"]}
            record.curve = Curve.from_state(row["curve"])
            for kind, value, position, snap in row["snapshots"]:
                snapshot, rung = Snapshot.from_state(snap), Rung(kind, value)
                record.snapshots[rung] = snapshot
                arrivals.append((position, record.trial_id, rung, snapshot))
            cohort.set_status(record, row["status"])
        for _, trial_id, rung, snapshot in sorted(arrivals, key=lambda a: a[0]):
            cohort._index(trial_id, rung, snapshot)
        finals = {t: cohort.trials[t].final for t in state["completed"]}
        cohort._finals = {t: final for t, final in finals.items() if final is not None}
        return cohort


class RungTable:
    """The snapshots at one rung as columns, in order of arrival: a decision reads a few hundred of them at once.

    Attributes:
        names: Trials that have arrived.
        with_error: Number of those whose objective has a standard error.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.with_error = 0
        self._places: dict[str, int] = {}
        self._orders: dict[str | None, int] = {None: -1}
        self._columns = {field: array("d") for field in _COLUMNS}
        self._order = array("q")  # number of the data order, -1 for none

    def add(self, name: str, snapshot: Snapshot) -> None:
        """Append a trial."""
        self._places[name] = len(self.names)
        self.names.append(name)
        self.with_error += math.isfinite(snapshot.metric_stderr)
        for field, column in self._columns.items():
            column.append(getattr(snapshot, field))
        self._order.append(self._orders.setdefault(snapshot.data_order, len(self._orders)))

    def places(self, names: Sequence[str]) -> NDArray[Any]:
        """Positions of these trials in the columns."""
        return np.array([self._places[name] for name in names], dtype=np.intp)

    def values(self, field: str, places: NDArray[Any]) -> NDArray[np.float64]:
        """A field of the snapshots at these positions."""
        return np.frombuffer(self._columns[field])[places] if len(places) else np.empty(0)

    def same_order(self, places: NDArray[Any]) -> bool:
        """Whether all of these trials, at least one, reported the same data order."""
        orders = np.frombuffer(self._order, dtype=np.int64)[places] if len(places) else np.array([-1])
        return bool(orders[0] >= 0 and (orders == orders[0]).all())


class FinishedTrials:
    """The completed trials of a sweep with an objective, in order of completion.

    A final result does not change, so that decisions which rest on all of them need not visit all trials each time.

    Args:
        of: The sweep; None for one that is not known yet.

    Attributes:
        of: The sweep.
        seen: Completed trials taken in.
        finals: Their objectives, larger is better.
        scores: The lowest score each was given; NaN for a trial that was never judged.
        weights: How many trials each stands for.
        audited: Positions of the audited ones.
    """

    def __init__(self, of: Cohort | None) -> None:
        self.of, self.seen = of, -1
        self.finals, self.scores, self.weights = array("d"), array("d"), array("d")
        self.audited: list[int] = []

    def update(self, audit: float) -> bool:
        """Add trials completed since; True if there were any, and the first time. ``audit`` is the rate of audits."""
        assert self.of is not None
        if self.seen == len(self.of.finals):
            return False
        for name in itertools.islice(self.of.finals, max(0, self.seen), None):
            trial = self.of.trials[name]
            if trial.audited:
                self.audited.append(len(self.finals))
            self.finals.append(self.of.sign * self.of.finals[name])
            self.scores.append(math.nan if trial.lowest_score is None else trial.lowest_score)
            self.weights.append(audit_weight(trial.audit_status, audit))
        self.seen = len(self.of.finals)
        return True
