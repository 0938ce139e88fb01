"""One trial's state, folded from its rows.

One idea: a trial that is restarted keeps its steps up to the step it goes on from; what was measured after that
is being measured again.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.ledger.rows import Row

HISTORY_KEYS: Final = ("step", "samples_seen", "tokens_seen", "loss", "grad_norm", "lr", "seconds")


@dataclass
class Attempt:
    """One try of a trial: its `start` row, in short.

    Attributes:
        attempt: Which try, as numbered by the driver.
        slot: The slot it ran on.
        from_step: Steps kept from earlier tries.
        warm: Whether living ranks took it over.
        switch_seconds: From the end of the slot's last trial to this one being ready.
        nodes: Hosts of the ranks, where known.
        started: Unix seconds at which it began: of its `start` row, or earlier if its first steps say so.
        last: Unix seconds of its latest row.
        parked: Whether it ended by being parked.
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
    """One trial as it stands.

    Attributes:
        trial_id, number, config, effective, origin, planned_steps, warmup_steps, study_number, confirms: From `trial`.
        budget_samples: Budget of the sweep, which `reach` divides by.
        status: ``completed | stopped | diverged | failed | interrupted``, or ``running``, or ``paused``.
        reason: Why it ended or was parked, or None.
        objective: Value at full budget (nats per target token, lower is better); None unless ``completed``.
        attempts: Its tries in order.
        evals: `eval` rows in force: those of steps that were trained again are left out.
        verdicts: `decision` rows in force, likewise.
        end: The `end` row in force, or None.
        faults: Its `fault` rows.
        costs: Wall seconds by phase, from `cost` rows; ``gpu_costs`` the same times the GPUs held.
        phase_seconds: Wall seconds by phase, from `steps` rows.
        blocks: Training loss per completed block of the sample order: ``{index: (loss, tokens)}``.
        data_order: Digest of its sample order.
        told: When its steps were told: Unix seconds and last step of each `steps` row in force.
        proposed, ended: Unix seconds.
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
    blocks: dict[int, tuple[float, float]] = field(default_factory=dict)
    data_order: str | None = None
    told: list[tuple[float, int]] = field(default_factory=list)
    proposed: float = 0.0
    ended: float | None = None
    _columns: dict[str, array[float]] = field(
        default_factory=lambda: {k: array("d") for k in HISTORY_KEYS}, repr=False
    )
    _whole: int = field(default=0, repr=False)  # step of the last result that is whole

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.end is None

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        """Every step kept, as arrays of equal length by `HISTORY_KEYS`; what was not reported is NaN. A copy."""
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
    def reach(self) -> float:
        """Share of the budget it trained, 0 to 1."""
        return min(1.0, self.samples_seen / self.budget_samples) if self.budget_samples > 0 else 0.0

    @property
    def stopped_by(self) -> Row | None:
        """The verdict that stopped or parked it, where one did."""
        if self.status not in ("stopped", "paused"):
            return None
        return next(
            (v for v in reversed(self.decisions) if v.get("action") in ("stop", "pause", "divergence_check")),
            None,
        )

    @property
    def pauses(self) -> int:
        """How often it was parked."""
        return sum(v.get("action") == "pause" for v in self.decisions)

    @property
    def audited(self) -> bool:
        """Whether it was condemned and ran on all the same."""
        return any(v.get("action") == "audit" for v in self.decisions)

    def apply(self, row: Row) -> None:
        """Fold one row of this trial."""
        fold = _FOLDS.get(str(row.get("kind")))
        if fold is not None:
            fold(self, row)
            if self.attempts and self.end is None:
                self.attempts[-1].last = row.get("time", 0.0)

    def settle(self, status: str) -> None:
        """Set the status of a trial that has no `end` row and is not parked."""
        if self.end is None and self.status != "paused":
            self.status = status

    def forget_torn(self) -> None:
        """Forget a result that a crash cut in two: who resumes takes it as not written (`complete_results`)."""
        if self.end is not None:
            return
        paused = self.status == "paused"
        self._keep_steps(self._whole)
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
                whole = values is not None and len(values) == len(steps)
                column.extend(
                    [math.nan if v is None else v for v in values or ()] if whole else [math.nan] * len(steps)
                )
            self.told.append((row.get("time", 0.0), int(steps[-1])))
        blocks = row.get("blocks") or {}
        for index, loss, tokens in zip(
            blocks.get("index", ()), blocks.get("loss", ()), blocks.get("tokens", ()), strict=False
        ):
            self.blocks[int(index)] = (loss, tokens)
        self.data_order = row.get("data_order") or self.data_order
        for phase, seconds in (row.get("phase_seconds") or {}).items():
            self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + seconds
        if self.attempts and self.attempts[-1].last == self.attempts[-1].started:  # its first steps
            began = row.get("time", 0.0) - sum((row.get("phase_seconds") or {}).values())
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
        if self.attempts and self.status != "paused":  # a parked one has held no slot since
            self.attempts[-1].last = row.get("time", 0.0)
        self.status = row["status"]
        self.reason = row.get("reason")
        self.ended = row.get("time")
        self.objective = row.get("objective") if self.status == "completed" else None

    def _cost(self, row: Row) -> None:
        phase, seconds = row["phase"], row["seconds"]
        self._whole = self.step
        self.costs[phase] = self.costs.get(phase, 0.0) + seconds
        self.gpu_costs[phase] = self.gpu_costs.get(phase, 0.0) + seconds * row.get("gpus", 0.0)

    def _fault(self, row: Row) -> None:
        self.faults.append(row)

    def _keep_steps(self, last: float) -> None:
        """Forget what was measured after step ``last``: it is being trained again."""
        column = self._columns["step"]
        if column and column[-1] <= last:  # as nearly always: nothing was measured after it
            return
        if column:
            keep = int(np.searchsorted(np.asarray(column), last, side="right"))
            for values in self._columns.values():
                del values[keep:]
        if self.told:
            self.told = [(time, step) for time, step in self.told if step <= last]
        if self.evals:
            self.evals = [e for e in self.evals if e["step"] <= last]
        if self.decisions:
            self.decisions = [v for v in self.decisions if v["step"] <= last]

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
}
