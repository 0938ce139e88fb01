"""The state of one trial, folded from its rows.

A trial that is restarted keeps its steps up to the step it restarts from; what was measured after that step is
dropped, because it is measured again.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.ledger.rows import Row, costs_of

RETRY: Final = "retry"
"""The command of a `command` row that sets a failed trial back."""

HISTORY_KEYS: Final = ("step", "samples_seen", "tokens_seen", "loss", "grad_norm", "lr", "seconds")


@dataclass(frozen=True, slots=True)
class StepsReport:
    """A `steps` row in short; the steps themselves are in `TrialState.history`.

    Attributes:
        seq: The row's ``seq``.
        time: Unix seconds.
        step: The last step of the row.
        blocks: ``{index: (loss, tokens)}`` of the blocks of the sample order that it completed.
    """

    seq: int
    time: float
    step: int
    blocks: dict[int, tuple[float, float]]


@dataclass
class Attempt:
    """One attempt at a trial: its `start` row in short.

    Attributes:
        attempt: Number of the attempt, as given by the driver.
        slot: The slot it ran on.
        from_step: Steps kept from earlier attempts.
        warm: Whether living ranks took it over.
        switch_seconds: From the end of the slot's last trial until this one was ready.
        nodes: Hosts of the ranks, where known.
        started: Unix seconds of its `start` row, or of its first step if that was earlier.
        last: Unix seconds of its last row.
        paused: Whether it ended in a pause.
    """

    attempt: int
    slot: int | str
    from_step: int
    warm: bool
    switch_seconds: float
    nodes: list[str] | None
    started: float
    last: float
    paused: bool = False


@dataclass
class TrialState:
    """The state of one trial.

    Attributes:
        trial_id, number, params, train_config, origin, planned_steps, warmup_steps, study_number, replicate_of,
            coordinates: Of its `trial` row; ``seq`` is the row's.
        budget_samples: Training samples at full budget.
        status: One of `STATUSES` after an `end` row, else of `OPEN_STATUSES`.
        reason: Why it ended or was paused, or None.
        objective: Its value, of the evaluation `counted`, as measured (see `Objective`); None unless ``completed``.
        objective_rungs: Of its `trial` row.
        attempts: In order.
        reports: One entry a `steps` row, except rows whose steps were trained again.
        evals, decisions: `eval` and `decision` rows, with the same exception.
        end: The `end` row, or None while the trial is open.
        faults: Its `fault` rows.
        costs, gpu_costs: Wall seconds and GPU-seconds by phase, from `cost` rows.
        phase_seconds: Wall seconds by phase, from `steps` rows.
        data_order: Digest of its sample order.
        phase_starts: Samples at which later phases of its curriculum begin.
        proposed, ended: Unix seconds.
        retried: ``seq`` of the row that last set it back after it had failed; -1 if there is none.
    """

    trial_id: str
    number: int
    params: dict[str, Any]
    train_config: dict[str, Any] = field(default_factory=dict)
    origin: str = "sampler"
    planned_steps: int = 0
    warmup_steps: int = 0
    study_number: int | None = None
    replicate_of: str | None = None
    coordinates: dict[str, Any] = field(default_factory=dict)
    objective_rungs: tuple[float, ...] | None = None
    budget_samples: int = 0
    status: str = "running"
    reason: str | None = None
    objective: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    evals: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)
    end: Row | None = None
    faults: list[Row] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    gpu_costs: dict[str, float] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    reports: list[StepsReport] = field(default_factory=list)
    data_order: str | None = None
    phase_starts: tuple[int, ...] = ()
    seq: int = 0
    proposed: float = 0.0
    ended: float | None = None
    retried: int = -1
    _columns: dict[str, array[float]] = field(
        default_factory=lambda: {k: array("d") for k in HISTORY_KEYS}, repr=False
    )
    _complete_step: int = field(default=0, repr=False)  # last step of the last complete result

    @property
    def open(self) -> bool:
        """Whether it has no `end` row."""
        return self.end is None

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        """All steps as arrays of equal length by `HISTORY_KEYS`, NaN where a value was not reported. A copy."""
        return {k: np.array(v, dtype=np.float64) for k, v in self._columns.items()}

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._last("step")

    @property
    def samples_seen(self) -> int:
        """Training samples consumed."""
        return self._last("samples_seen")

    @property
    def tokens_seen(self) -> int:
        """Target tokens consumed."""
        return self._last("tokens_seen")

    @property
    def blocks(self) -> dict[int, tuple[float, float]]:
        """Training loss and target tokens of each completed block of the sample order."""
        return {index: block for report in self.reports for index, block in report.blocks.items()}

    @property
    def progress(self) -> float:
        """Share of the budget it has trained, 0 to 1."""
        return min(1.0, self.samples_seen / self.budget_samples) if self.budget_samples > 0 else 0.0

    @property
    def stopped_by(self) -> Row | None:
        """The decision that stopped or paused it, or None."""
        if self.status not in ("stopped", "paused"):
            return None
        ending = ("stop", "pause", "divergence_check")
        return next((d for d in reversed(self.decisions) if d["action"] in ending), None)

    @property
    def pauses(self) -> int:
        """How often it was paused."""
        return sum(d["action"] == "pause" for d in self.decisions)

    @property
    def is_paused(self) -> bool:
        """Whether its last attempt ended in a pause. It stays paused when the driver ends."""
        return bool(self.attempts) and self.attempts[-1].paused

    @property
    def audited(self) -> bool:
        """Whether the rule flagged it, and it runs on as an audit."""
        return any(d["action"] == "audit" for d in self.decisions)

    @property
    def ranked(self) -> bool:
        """Whether it has a place in the ranking: completed with a finite objective, and not a replicate."""
        known = self.objective is not None and math.isfinite(self.objective)
        return known and self.status == "completed" and self.replicate_of is None

    @property
    def counted(self) -> Row | None:
        """The evaluation that its value is from: the last one, or the best one with ``objective.at: best``."""
        return self.counted_at(self.evals[-1]) if self.evals else None

    def counted_at(self, row: Row) -> Row:
        """The evaluation that its value was from when it had this one, of `evals`."""
        before = (e for e in reversed(self.evals) if e["step"] <= row["step"] and e.get("counts", True))
        return next(before, row)

    def value_at(self, row: Row) -> Row:
        """The same, or the evaluation itself where its objective was not measured: it tells nothing new."""
        return row if row["objective"] is None else self.counted_at(row)

    @property
    def ended_early_at(self) -> int | None:
        """The step at which its patience ended it, completed; None for any other trial."""
        ended = self.status == "completed" and self.decisions and self.decisions[-1]["action"] == "patience"
        return int(self.decisions[-1]["step"]) if ended else None

    @property
    def losses(self) -> dict[str, float | None]:
        """Losses by validation set at the evaluation `counted`, and costs by task (see `costs_of`): the last ones that
        were measured up to there.
        """
        counted = self.counted
        if counted is None:
            return {}
        tasks: dict[str, Any] = {}
        for row in self.evals:
            if row["step"] <= counted["step"]:
                tasks |= row.get("tasks") or {}
        return costs_of(counted.get("sets") or {}, tasks)

    def apply(self, row: Row) -> None:
        """Fold one row of this trial."""
        fold = _FOLDS.get(str(row.get("kind")))
        if fold is not None:
            fold(self, row)
            if self.attempts and self.end is None:
                self.attempts[-1].last = row.get("time", 0.0)

    def set_unfinished(self, status: str) -> None:
        """Set the status of a trial that has neither ended nor been paused."""
        if self.end is None and self.status != "paused":
            self.status = status

    def drop_partial_result(self) -> None:
        """Drop a result that a crash cut off: its rows lack the `cost` row that closes it.

        A driver that resumes the sweep trains its steps again.
        """
        if self.end is not None or not self.step:
            return
        paused = self.status == "paused"
        self._keep_steps(self._complete_step)
        if paused and not (self.decisions and self.decisions[-1]["action"] == "pause"):
            self.status, self.reason = "interrupted", None
            if self.attempts:
                self.attempts[-1].paused = False

    def _start(self, row: Row) -> None:
        self.attempts.append(
            Attempt(
                attempt=row["attempt"],
                slot=row["slot"],
                from_step=row.get("from_step", 0),
                warm=row.get("warm", False),
                switch_seconds=row.get("switch_seconds", 0.0),
                nodes=row.get("nodes"),
                started=row.get("time", 0.0),
                last=row.get("time", 0.0),
            )
        )
        self.phase_starts = tuple(row.get("phase_starts") or ()) or self.phase_starts
        self.end = self.ended = self.reason = self.objective = None
        self.status = "running"
        self._keep_steps(row.get("from_step", 0))

    def _steps(self, row: Row) -> None:
        history: Mapping[str, list[float]] = row["history"]
        steps = history.get("step") or []
        if steps:
            self._keep_steps(steps[0] - 1)
            for key, column in self._columns.items():
                values = history.get(key)
                if values is None or len(values) != len(steps):
                    values = [math.nan] * len(steps)
                column.extend(math.nan if v is None else v for v in values)
            blocks = row.get("blocks") or {}
            columns = (blocks.get(key, ()) for key in ("index", "loss", "tokens"))
            completed = {int(index): (loss, tokens) for index, loss, tokens in zip(*columns, strict=False)}
            self.reports.append(StepsReport(row["seq"], row.get("time", 0.0), int(steps[-1]), completed))
        self.data_order = row.get("data_order") or self.data_order
        phases = row.get("phase_seconds") or {}
        for phase, seconds in phases.items():
            self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + seconds
        if self.attempts and self.attempts[-1].last == self.attempts[-1].started:  # its first steps
            began = row.get("time", 0.0) - sum(phases.values())
            self.attempts[-1].started = min(self.attempts[-1].started, began)

    def _eval(self, row: Row) -> None:
        self.evals = [e for e in self.evals if e["step"] != row["step"]]
        self.evals.append(row)

    def _decision(self, row: Row) -> None:
        self.decisions.append(row)
        if row["action"] == "pause":
            self.status, self.reason = "paused", row["reason"]
            if self.attempts:
                self.attempts[-1].paused = True

    def _end(self, row: Row) -> None:
        self.end = row
        if self.attempts and self.status != "paused":  # a paused trial holds no slot
            self.attempts[-1].last = row.get("time", 0.0)
        self.status = row["status"]
        self.reason = row.get("reason")
        self.ended = row.get("time")
        self.objective = row.get("objective") if self.status == "completed" else None

    def _cost(self, row: Row) -> None:
        phase, seconds = row["phase"], row["seconds"]
        self._complete_step = self.step
        self.costs[phase] = self.costs.get(phase, 0.0) + seconds
        self.gpu_costs[phase] = self.gpu_costs.get(phase, 0.0) + seconds * row.get("gpus", 0.0)

    def _fault(self, row: Row) -> None:
        self.faults.append(row)

    def _command(self, row: Row) -> None:
        """A failed trial is run again: it is open, with the steps it has."""
        if row["command"] == RETRY and row["accepted"]:
            self.end = self.ended = self.reason = self.objective = None
            self.status, self.retried = "interrupted", row["seq"]

    def _keep_steps(self, last: float) -> None:
        """Drop what was measured after step ``last``, which is trained again."""
        column = self._columns["step"]
        if column and column[-1] <= last:  # the usual case: nothing to drop
            return
        if column:
            keep = int(np.searchsorted(np.asarray(column), last, side="right"))
            for values in self._columns.values():
                del values[keep:]
        self.reports = [r for r in self.reports if r.step <= last]
        self.evals = [e for e in self.evals if e["step"] <= last]
        self.decisions = [d for d in self.decisions if d["step"] <= last]

    def _last(self, key: str) -> int:
        column = self._columns[key]
        if column and math.isfinite(column[-1]):
            return int(column[-1])
        return int((self.end or {}).get(key) or 0)


_FOLDS: Final = {
    "start": TrialState._start,
    "steps": TrialState._steps,
    "eval": TrialState._eval,
    "decision": TrialState._decision,
    "end": TrialState._end,
    "cost": TrialState._cost,
    "fault": TrialState._fault,
    "command": TrialState._command,
}
