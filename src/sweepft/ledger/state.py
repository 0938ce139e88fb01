"""The state of a sweep, folded from its ledger one row at a time.

There is one fold: the live progress view, resume, the report and replay all call `SweepState.apply`, so they
cannot disagree about what happened.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from sweepft.ledger.codec import gc_paused
from sweepft.ledger.ledger import iter_ledger, ledger_path
from sweepft.ledger.lock import Owner, current_writer
from sweepft.ledger.ranking import all_scored, finalists
from sweepft.ledger.rows import Row
from sweepft.ledger.trial_state import TrialState


@dataclass(frozen=True)
class Ranked:
    """A place in the ranking; ``rank`` is None for a trial that did not reach the full budget."""

    rank: int | None
    trial: TrialState


@dataclass
class SweepState:
    """A sweep as it stands.

    Attributes:
        header: The first `sweep` row, or an empty dict before it.
        resumes: Later `sweep` rows.
        trials: By trial_id, in the order they were proposed.
        finish: The `finish` row in force, or None while the sweep runs or after a crash.
        faults: All `fault` rows, those of no trial too.
        costs: `cost` rows of no trial: what slots waited.
        phases: Wall seconds by phase, of all `cost` rows; ``gpu_phases`` the same times the GPUs held.
        slots: Names of the slots that `cost` rows tell of, for each of ``sessions``.
        commands: All `command` rows.
        finalists: The `finalists` row in force, or None before the search is over.
        scores: The last `score` row by trial_id (None: the base model) and name of test set or task.
        writer: Who was writing when the ledger was loaded, or None.
        rows: Rows folded.
        first_time, last_time: Unix seconds of the first and last row.
        sessions: First and last time of each run of the driver; a resume begins a new one.
    """

    header: Row = field(default_factory=dict)
    resumes: list[Row] = field(default_factory=list)
    trials: dict[str, TrialState] = field(default_factory=dict)
    finish: Row | None = None
    faults: list[Row] = field(default_factory=list)
    costs: list[Row] = field(default_factory=list)
    commands: list[Row] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    gpu_phases: dict[str, float] = field(default_factory=dict)
    slots: list[set[int | str]] = field(default_factory=list)
    finalists: Row | None = None
    scores: dict[tuple[str | None, str], Row] = field(default_factory=dict)
    writer: Owner | None = None
    rows: int = 0
    first_time: float = 0.0
    last_time: float = 0.0
    sessions: list[tuple[float, float]] = field(default_factory=list)
    _best: TrialState | None = field(default=None, repr=False)

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Self:
        """Fold rows; trials without an `end` are ``running`` unless a `finish` row follows."""
        view = cls()
        with gc_paused():
            for row in rows:
                view.apply(row)
        return view

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> Self:
        """Fold the ledger of a run; with no living writer, trials without an `end` are ``interrupted``.

        Raises:
            LedgerError, LedgerCorrupt, LedgerVersion: See `iter_ledger`.
        """
        writer = current_writer(ledger_path(run_dir).parent)
        view = cls.from_rows(iter_ledger(run_dir))
        view.writer = writer
        if writer is None:
            view.settle("interrupted")
        return view

    @property
    def spec(self) -> dict[str, Any]:
        """The resolved spec now in force: that of the last resume, else the first."""
        latest = self.resumes[-1] if self.resumes else self.header
        return latest.get("spec") or {}

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.header.get("name", ""))

    @property
    def simulated(self) -> dict[str, Any] | None:
        """What stood in for training, where none took place; None in a real sweep."""
        return self.header.get("simulated")

    @property
    def budget_samples(self) -> int:
        """Training samples every trial may consume."""
        return int(self.header.get("budget_samples") or 0)

    @property
    def planned_trials(self) -> int | None:
        """Trials the sweep will run: those of its spec or of an extension, and clones; None without such a number."""
        asked = (self.spec.get("search") or {}).get("trials")
        if asked is None:
            return None
        more = [int(c["arguments"]["trials"]) for c in self.accepted("extend")]
        return max([int(asked), *more]) + self.clones

    @property
    def clones(self) -> int:
        """Clones that were asked for."""
        return len(self.accepted("clone"))

    @property
    def paused(self) -> bool:
        """Whether the sweep is paused, or about to be: told so, and neither continued nor resumed since."""
        begun = self.sessions[-1][0] if self.sessions else 0.0
        told = [c for c in self.accepted("pause", "continue") if c["time"] >= begun]
        return bool(told) and told[-1]["command"] == "pause"

    def accepted(self, *commands: str) -> list[Row]:
        """The `command` rows of these commands that were accepted, in order."""
        return [c for c in self.commands if c["command"] in commands and c["accepted"]]

    @property
    def status(self) -> str:
        """``running``, ``crashed`` (no writer, no finish row), or the finish row's status."""
        if self.finish is not None:
            return str(self.finish["status"])
        return (
            "running"
            if self.writer is not None or any(t.status == "running" for t in self.trials.values())
            else "crashed"
        )

    def apply(self, row: Row) -> None:
        """Fold one row; kinds this version does not know are passed over."""
        self.rows += 1
        self.last_time = row.get("time", self.last_time)
        self.first_time = self.first_time or self.last_time
        kind = row.get("kind")
        if kind == "sweep" or not self.sessions:
            self.sessions.append((self.last_time, self.last_time))
            self.slots.append(set())
        self.sessions[-1] = (self.sessions[-1][0], self.last_time)
        if kind == "sweep":
            self._sweep(row)
        elif kind == "trial":
            self._trial(row)
        elif kind == "finish":
            self.finish = row
            self.settle("interrupted")
        elif kind == "cost":
            self._cost(row)
        elif kind == "fault":
            self.faults.append(row)
        elif kind == "command":
            self.commands.append(row)
        elif kind == "finalists":
            self.finalists = row
        elif kind == "score":
            self.scores[row["trial_id"], row["name"]] = row
        trial = self.trials.get(row.get("trial_id") or "")
        if trial is not None and kind != "trial":
            trial.apply(row)
            if kind in ("end", "start"):
                self._note_best(trial)

    def settle(self, status: str) -> None:
        """Set the status of every trial that has no `end` row."""
        for trial in self.trials.values():
            trial.settle(status)

    def with_status(self, *statuses: str) -> list[TrialState]:
        """Trials of these statuses, in the order they were proposed."""
        return [t for t in self.trials.values() if t.status in statuses]

    def ranking(self) -> list[Ranked]:
        """Completed trials by objective, best first, ranked 1..n; then all others, unranked, farthest first.

        A completed trial whose objective is not finite is not ranked, nor is one that confirms another. Ties stand in
        order of proposal.
        """
        ranked: list[TrialState] = []
        others: list[TrialState] = []
        for trial in self.trials.values():
            (ranked if _rankable(trial) else others).append(trial)
        ranked.sort(key=_place)
        others.sort(key=lambda t: (-t.reach, t.number))
        return [Ranked(i, t) for i, t in enumerate(ranked, 1)] + [Ranked(None, t) for t in others]

    @property
    def best(self) -> TrialState | None:
        """The winner: of scored finalists the first by ``rank_by``, else the first of the ranking; None without any."""
        chosen = finalists(self)
        if chosen and any(f.standing is not None for f in chosen) and all_scored(self):
            return chosen[0].trial
        return self._best

    def _note_best(self, trial: TrialState) -> None:
        """Keep the first of the ranking: asked for at every end, in sweeps of any length."""
        if trial is self._best:  # it starts again, or ends another way
            first = next(iter(self.ranking()), None)
            self._best = first.trial if first is not None and first.rank == 1 else None
        elif _rankable(trial) and (self._best is None or _place(trial) < _place(self._best)):
            self._best = trial

    def _cost(self, row: Row) -> None:
        phase, seconds = row["phase"], row["seconds"]
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.gpu_phases[phase] = self.gpu_phases.get(phase, 0.0) + seconds * row.get("gpus", 0.0)
        if row.get("slot") is not None:
            self.slots[-1].add(row["slot"])
        if row.get("trial_id") is None:
            self.costs.append(row)

    def _sweep(self, row: Row) -> None:
        if self.header:
            self.resumes.append(row)
            self.finish = None
            self.settle("interrupted")
            for trial in self.trials.values():
                trial.budget_samples = int(row.get("budget_samples") or trial.budget_samples)
                trial.forget_torn()
        else:
            self.header = row

    def _trial(self, row: Row) -> None:
        self.trials[row["trial_id"]] = TrialState(
            trial_id=row["trial_id"],
            number=row["number"],
            params=row["params"],
            train_config=row.get("train_config", {}),
            origin=row.get("origin", ""),
            planned_steps=row.get("planned_steps", 0),
            warmup_steps=row.get("warmup_steps", 0),
            study_number=row.get("study_number"),
            replicate_of=row.get("replicate_of"),
            budget_samples=self.budget_samples,
            proposed=row.get("time", 0.0),
        )


def _rankable(trial: TrialState) -> bool:
    known = trial.objective is not None and math.isfinite(trial.objective)
    return trial.status == "completed" and trial.replicate_of is None and known


def _place(trial: TrialState) -> tuple[float, int]:
    """What the ranking goes by; of a completed trial."""
    assert trial.objective is not None
    return trial.objective, trial.number
