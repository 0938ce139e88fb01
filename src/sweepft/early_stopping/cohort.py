"""All trials of a sweep as rules see them: curves, snapshots by window, final results.

Sorted values by window are kept as trials arrive, so that a rank costs a binary search, whatever the
number of trials.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from sweepft.early_stopping.curve import Curve, Snapshot
from sweepft.early_stopping.rung_table import RungTable, configuration, loss_shifts
from sweepft.early_stopping.rungs import Rung

Status = Literal["running", "completed", "paused", "stopped", "diverged", "failed", "removed"]


_STANDING = ("running", "completed")


_OUT = ("paused", "stopped", "diverged")


_SORTED_FIELDS = ("metric", "loss", "log_grad_norm", "block_loss")


_SAMPLE = 200


@dataclass
class TrialRecord:
    """What is known of one trial.

    Attributes:
        trial_id: Its name.
        config: Its hyperparameters, flat.
        number: 0, 1, 2, ... in order of arrival.
        status: Only ``completed`` trials have a ``final``.
        final: Objective at the full budget, in its own direction.
        flagged_at: Name of the window at which the rule condemned it, if it did.
        audited: Condemned, but let run so that the rule's mistakes can be counted.
        p_flagged: The probability of being good that it had when it was condemned.
        lowest_score: The lowest score a rule has given it so far.
        warmup_steps: As reported.
        judged_on: How many snapshots its windows held when it was last judged; see `Cohort.news`.
        snapshots: By window; a window at which the trial was not eligible has none.
        reached: All windows it has reached, judged there or not.
    """

    trial_id: str
    params: dict[str, Any]
    number: int
    status: Status = "running"
    final: float | None = None
    flagged_at: str | None = None
    audited: bool = False
    p_flagged: float | None = None
    lowest_score: float | None = None
    warmup_steps: int = 0
    judged_on: int = 0
    curve: Curve = field(default_factory=Curve)
    snapshots: dict[Rung, Snapshot] = field(default_factory=dict)
    reached: set[Rung] = field(default_factory=set)
    _covariates: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _numbers: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fate(self) -> bool | None:
        """None when it was never condemned, True when it is audited, False when it was stopped or parked."""
        return None if self.flagged_at is None else self.audited

    @cached_property
    def configuration(self) -> str | None:
        """What its repeats with other seeds share; see `sweepft.early_stopping.rung_table`."""
        return configuration(self.params)

    @cached_property
    def loss_shifts(self) -> tuple[tuple[str, str], ...]:
        """Its hyperparameters that shift the training loss itself; see there."""
        return loss_shifts(self.params)

    def covariate(self, name: str) -> Any:
        """A config value by key, wherever it is nested; dotted keys name a path; None when absent."""
        if name not in self._covariates:
            self._covariates[name] = self._find(name)
        return self._covariates[name]

    def numeric(self, name: str) -> float:
        """A covariate that is a number; NaN for any other."""
        if name not in self._numbers:
            value = self.covariate(name)
            ok = isinstance(value, (int, float)) and not isinstance(value, bool)
            self._numbers[name] = float(value) if ok else math.nan
        return self._numbers[name]

    def _find(self, name: str) -> Any:
        if "." in name and name not in self.params:
            value: Any = self.params
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            return value
        level: list[Mapping[str, Any]] = [self.params]
        while level:
            for mapping in level:
                if name in mapping:
                    return mapping[name]
            level = [v for mapping in level for v in mapping.values() if isinstance(v, Mapping)]
        return None


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
        self._standing = 0
        self._columns: dict[Rung, RungTable] = {}
        self._out: dict[Rung, tuple[int, float]] = {}
        self._out_anywhere = (0, 0.0)
        self.changes = 0
        """Grows whenever a trial comes to a window or changes its status: as long as it stands, so do all estimates."""

    @property
    def sign(self) -> float:
        """Multiplied with an objective, larger is better."""
        return 1.0 if self.mode == "max" else -1.0

    def add(self, trial_id: str, params: Mapping[str, Any]) -> TrialRecord:
        """A new trial, or the record of a known one set running again (a retry)."""
        record = self.trials.get(trial_id)
        if record is None:
            record = self.trials[trial_id] = TrialRecord(trial_id, dict(params), len(self.trials))
            self._standing += 1
        elif record.status in ("failed", "removed"):
            self.set_status(record, "running")
        return record

    def set_status(self, record: TrialRecord, status: Status) -> None:
        """Change a trial's status."""
        self.changes += 1
        self._standing += (status in _STANDING) - (record.status in _STANDING)
        if record.status in _OUT:  # a parked trial: back, or given up for good
            self._count_out(record, -1)
        record.status = status
        if status in _OUT:
            self._count_out(record, 1)

    def _count_out(self, record: TrialRecord, by: int) -> None:
        """Note that a trial, and the chances of being good that it had, have left (1) or come back (-1)."""
        chance = by * (record.p_flagged or 0.0)
        self._out_anywhere = (self._out_anywhere[0] + by, self._out_anywhere[1] + chance)
        for rung in record.snapshots:
            count, total = self._out.get(rung, (0, 0.0))
            self._out[rung] = (count + by, total + chance)

    def complete(self, record: TrialRecord, final: float | None) -> None:
        """A trial ended by itself; ``final`` is its objective there, None when it never reported one."""
        self.set_status(record, "completed")
        record.final = final
        if final is not None:
            self._finals[record.trial_id] = final

    def put(self, trial_id: str, rung: Rung, snapshot: Snapshot) -> None:
        """Note a trial's snapshot at a window; the first one counts."""
        record = self.trials[trial_id]
        if rung in record.snapshots:
            return
        record.snapshots[rung] = snapshot
        self._index(trial_id, rung, snapshot)

    def _index(self, trial_id: str, rung: Rung, snapshot: Snapshot) -> None:
        self.changes += 1
        self._at.setdefault(rung, {})[trial_id] = snapshot
        self._columns.setdefault(rung, RungTable()).add(trial_id, snapshot)
        for name in _SORTED_FIELDS:
            value = getattr(snapshot, name)
            if math.isfinite(value):
                insort(self._sorted.setdefault((rung, name), []), value)

    def at(self, rung: Rung) -> Mapping[str, Snapshot]:
        """Snapshots at a window, in order of arrival."""
        return self._at.get(rung, {})

    def names_at(self, rung: Rung) -> Sequence[str]:
        """Trials with a snapshot at the window, in order of arrival."""
        return self._columns[rung].names if rung in self._columns else ()

    def some_at(self, rung: Rung) -> list[str]:
        """At most 200 of them, evenly by arrival: a verdict's cost must not grow with the sweep."""
        names = self.names_at(rung)
        return list(names[:: len(names) // _SAMPLE + 1]) if len(names) > _SAMPLE else list(names)

    def columns(self, rung: Rung) -> RungTable:
        """What was seen at the window, as columns."""
        return self._columns.get(rung) or RungTable()

    def news(self, record: TrialRecord) -> bool:
        """Whether its windows hold noticeably more snapshots than when it was last judged.

        A twentieth more at least: in a large sweep a trial is judged again after each such growth only.
        """
        return self.seen(record) > 1.05 * record.judged_on

    def seen(self, record: TrialRecord) -> int:
        """How many snapshots the windows hold at which this trial has been."""
        return sum(len(self.at(w)) for w in record.snapshots)

    def rungs(self) -> Sequence[Rung]:
        """Windows at which at least one trial has been."""
        return list(self._at)

    def out_before(self, rung: Rung) -> tuple[int, float]:
        """Trials stopped without having been at this window, and the chances of being good they had together."""
        (count, chance), (here, at) = self._out_anywhere, self._out.get(rung, (0, 0.0))
        return count - here, max(0.0, chance - at)

    @property
    def out(self) -> int:
        """Trials stopped, parked or diverged."""
        return self._out_anywhere[0]

    def completed(self) -> list[TrialRecord]:
        """Trials that ended by themselves with an objective, in order of completion."""
        return [self.trials[t] for t in self._finals]

    def peers(self, rung: Rung, name: str, own: float) -> int:
        """How many *other* trials reported ``name`` at the window; ``own`` is this trial's value there."""
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
        """Median of the other trials' values at the window; NaN without any."""
        values = self._sorted.get((rung, name), [])
        hole = bisect_left(values, own) if math.isfinite(own) else len(values)
        n = self.peers(rung, name, own)
        if n <= 0:
            return math.nan

        def pick(index: int) -> float:
            return values[index if index < hole else index + 1]

        return pick(n // 2) if n % 2 else 0.5 * (pick(n // 2 - 1) + pick(n // 2))

    def leads(self, rung: Rung, own: float) -> bool:
        """Whether no other trial had a better objective at the window."""
        values = self._sorted.get((rung, "metric"), [])
        if not values or not math.isfinite(own):
            return False
        return own >= values[-1] if self.mode == "max" else own <= values[0]

    @property
    def finals(self) -> Mapping[str, float]:
        """Final objective of each completed trial, in order of completion."""
        return self._finals

    @property
    def standing(self) -> int:
        """Trials running or completed, that is, not out."""
        return self._standing

    def to_state(self) -> dict[str, Any]:
        """JSON-able state, with the order in which trials arrived at windows and completed."""
        order = {w: {t: i for i, t in enumerate(at)} for w, at in self._at.items()}
        trials = [
            {
                "trial_id": t.trial_id,
                "params": t.params,
                "status": t.status,
                "final": t.final,
                "flagged_at": t.flagged_at,
                "audited": t.audited,
                "p_flagged": t.p_flagged,
                "lowest_score": t.lowest_score,
                "judged_on": t.judged_on,
                "warmup_steps": t.warmup_steps,
                "reached": sorted([w.kind, w.value] for w in t.reached),
                "curve": t.curve.to_state(),
                "snapshots": [
                    [w.kind, w.value, order[w][t.trial_id], s.to_state()] for w, s in t.snapshots.items()
                ],
            }
            for t in self.trials.values()
        ]
        out = [[w.kind, w.value, count, chance] for w, (count, chance) in self._out.items()]
        return {
            "trials": trials,
            "completed": list(self._finals),
            "out": out,
            "out_anywhere": list(self._out_anywhere),
        }

    @classmethod
    def from_state(cls, mode: Literal["min", "max"], state: Mapping[str, Any]) -> Cohort:
        """The inverse of `to_state`."""
        cohort = cls(mode)
        arrivals = []
        for row in state["trials"]:
            record = cohort.add(row["trial_id"], row["params"])
            record.final = row["final"]
            record.flagged_at, record.audited = row["flagged_at"], row["audited"]
            record.p_flagged, record.lowest_score = row["p_flagged"], row["lowest_score"]
            record.judged_on = row.get("judged_on", 0)
            record.warmup_steps = row["warmup_steps"]
            record.reached = {Rung(kind, value) for kind, value in row["reached"]}
            record.curve = Curve.from_state(row["curve"])
            for kind, value, position, snap in row["snapshots"]:
                snapshot, rung = Snapshot.from_state(snap), Rung(kind, value)
                record.snapshots[rung] = snapshot
                arrivals.append((position, record.trial_id, rung, snapshot))
            cohort.set_status(record, row["status"])
        for _, trial_id, rung, snapshot in sorted(arrivals, key=lambda a: a[0]):
            cohort._index(trial_id, rung, snapshot)
        cohort._out = {Rung(kind, value): (n, chance) for kind, value, n, chance in state["out"]}
        count, total = state["out_anywhere"]
        cohort._out_anywhere = (count, total)
        finals = {t: cohort.trials[t].final for t in state["completed"]}
        cohort._finals = {t: final for t, final in finals.items() if final is not None}
        return cohort
