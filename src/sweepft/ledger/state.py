"""The state of a sweep, folded from its ledger one row at a time.

This is the only place that interprets rows. The progress display, resume, early stopping, search, the report and the
replay all read this state, so they agree about what happened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from sweepft.errors import LedgerCorrupt
from sweepft.ledger.bounds import Bounds, violation
from sweepft.ledger.codec import gc_paused
from sweepft.ledger.lease import current_writer
from sweepft.ledger.objective import Objective
from sweepft.ledger.owner import Owner
from sweepft.ledger.reader import iter_ledger, ledger_path
from sweepft.ledger.rows import GPU_GIVEN_UP, GPU_USED_AGAIN, NODE_KEPT_OUT, NODE_USED_AGAIN, Row
from sweepft.ledger.trial_state import TrialState


@dataclass
class SweepState:
    """The state of a sweep.

    Attributes:
        header: The first `sweep` row; an empty dict before it.
        resumes: Later `sweep` rows.
        trials: By trial_id, in the order of proposal.
        leader: The first trial of the ranking, or None. See `sweepft.ledger.ranking`.
        finish: The `finish` row, or None while a driver runs and after a crash.
        faults, commands: All rows of these kinds.
        asked_trials: Number of trials without clones: of the last spec or extension; None where the spec sets none.
        costs: `cost` rows that belong to no trial: idle slots.
        phases, gpu_phases: Wall seconds and GPU-seconds by phase, of all `cost` rows.
        slots: Names of the slots in `cost` rows, for each of ``sessions``.
        enough: All `enough` rows.
        finalists: The last `finalists` row, or None during the search.
        scores: The last `score` row by trial_id (None: the base model) and name of the item.
        objective: What the sweep optimises.
        bounds: ``search.subject_to`` with its limits, as far as they are known.
        writer: The process that wrote the ledger when it was loaded, or None.
        rows: Number of rows folded.
        first_time, last_time: Unix seconds of the first and last row.
        sessions: First and last time of each run of the driver; each resume begins a new one.
    """

    header: Row = field(default_factory=dict)
    resumes: list[Row] = field(default_factory=list)
    trials: dict[str, TrialState] = field(default_factory=dict)
    finish: Row | None = None
    faults: list[Row] = field(default_factory=list)
    costs: list[Row] = field(default_factory=list)
    commands: list[Row] = field(default_factory=list)
    asked_trials: int | None = None
    phases: dict[str, float] = field(default_factory=dict)
    gpu_phases: dict[str, float] = field(default_factory=dict)
    slots: list[set[int | str]] = field(default_factory=list)
    enough: list[Row] = field(default_factory=list)
    finalists: Row | None = None
    scores: dict[tuple[str | None, str], Row] = field(default_factory=dict)
    objective: Objective = field(default_factory=Objective)
    bounds: Bounds = field(default_factory=Bounds)
    writer: Owner | None = None
    rows: int = 0
    first_time: float = 0.0
    last_time: float = 0.0
    sessions: list[tuple[float, float]] = field(default_factory=list)
    leader: TrialState | None = field(default=None, repr=False)

    @classmethod
    def from_rows(cls, rows: Iterable[Row], source: str = "ledger") -> Self:
        """Fold rows. Trials without an `end` row are ``running`` unless a `finish` row follows.

        Raises:
            LedgerCorrupt: If a row, sound by itself, does not fit to those before it; ``source`` is named.
        """
        state = cls()
        with gc_paused():
            for row in rows:
                try:
                    state.apply(row)
                except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                    raise LedgerCorrupt(
                        f"{source}: row {row.get('seq')} ({row.get('kind')}) does not fit to the rows before it: "
                        f"{type(error).__name__}: {error}\n  Restore the ledger from a copy.",
                        key="ledger.row",
                    ) from error
        return state

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> Self:
        """Fold the ledger of a run. Without a living writer, trials without an `end` row are ``interrupted``.

        Raises:
            LedgerError, LedgerCorrupt, LedgerVersion: See `iter_ledger`.
        """
        writer = current_writer(ledger_path(run_dir).parent)
        state = cls.from_rows(iter_ledger(run_dir), source=str(run_dir))
        state.writer = writer
        if writer is None:
            state.set_unfinished("interrupted")
        return state

    @property
    def spec(self) -> dict[str, Any]:
        """The resolved spec: that of the last resume, else of the first row."""
        latest = self.resumes[-1] if self.resumes else self.header
        return latest.get("spec") or {}

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.header.get("name", ""))

    @property
    def simulated(self) -> dict[str, Any] | None:
        """The simulation of a sweep that trained nothing; None in a real sweep."""
        return self.header.get("simulated")

    @property
    def budget_samples(self) -> int:
        """Training samples of a trial at full budget."""
        return int(self.header.get("budget_samples") or 0)

    @property
    def tokens_per_sample(self) -> float | None:
        """Mean target tokens of a training row; None where the ledger does not have them."""
        train = (self.header.get("data") or {}).get("train")
        rows, targets = (train.get(key) if isinstance(train, dict) else None for key in ("rows", "targets"))
        if not isinstance(rows, int) or not isinstance(targets, int) or rows < 1:
            return None
        return targets / rows

    @property
    def training_rows(self) -> int | None:
        """Training rows, the samples of an epoch; None where they are not recorded."""
        train = (self.header.get("data") or {}).get("train")
        rows = train.get("rows") if isinstance(train, dict) else None
        return rows if isinstance(rows, int) and rows > 0 else None

    @property
    def planned_trials(self) -> int | None:
        """Trials the sweep will run, with extensions and clones; None where the spec sets no number."""
        if self.found_enough is not None:
            return len(self.search_trials)
        return None if self.asked_trials is None else self.asked_trials + self.clones

    @property
    def found_enough(self) -> Row | None:
        """The `enough` row that ended the search; None while it goes on, or if ``search.enough`` now asks for more."""
        asked = (self.spec.get("search") or {}).get("enough")
        last = self.enough[-1] if self.enough else None
        if not asked or last is None or not last["enough"] or last["expected"] is None:
            return None
        kept = last["gain"] == asked["gain"] and last["completed"] >= asked.get("min_trials", 0)
        return last if kept else None

    @property
    def clones(self) -> int:
        """Number of clones requested."""
        return len(self.accepted("clone"))

    @property
    def paused(self) -> bool:
        """Whether the last accepted `pause` or `continue` command of this session is a pause."""
        begun = self.sessions[-1][0] if self.sessions else 0.0
        given = [c for c in self.accepted("pause", "continue") if c["time"] >= begun]
        return bool(given) and given[-1]["command"] == "pause"

    @property
    def nodes_kept_out(self) -> dict[str, str]:
        """Nodes on which this session places no more slots, each with the reason."""
        return {node: why for (node, _), why in self._taken_out(NODE_KEPT_OUT, NODE_USED_AGAIN).items()}

    @property
    def gpus_given_up(self) -> dict[tuple[str, str], str]:
        """GPUs on which this session places no more slots, by name of the node and Ray's id, each with the reason."""
        found = self._taken_out(GPU_GIVEN_UP, GPU_USED_AGAIN)
        return {(node, str(gpu)): why for (node, gpu), why in found.items()}

    def _taken_out(self, out: str, back: str) -> dict[tuple[str, str | None], str]:
        """Messages of this session's faults of one action that another action has not taken back."""
        begun, found = self.sessions[-1][0] if self.sessions else 0.0, dict[tuple[str, str | None], str]()
        for row in self.faults:
            if row["time"] < begun or not row.get("node"):
                continue
            if row["action"] == out:
                found[row["node"], row.get("gpu")] = row["message"]
            elif row["action"] == back:
                found.pop((row["node"], row.get("gpu")), None)
        return found

    @property
    def search_trials(self) -> list[TrialState]:
        """Trials of the search, in the order of proposal: all but replicates."""
        return [t for t in self.trials.values() if t.replicate_of is None]

    @property
    def baseline(self) -> TrialState | None:
        """The trial that others are compared with: the first one, if its params were given (``start_with``)."""
        return next((t for t in self.search_trials if is_baseline(t.number, t.origin)), None)

    @property
    def decisions(self) -> list[Row]:
        """The decisions on all trials, in the order of the ledger."""
        return sorted((d for t in self.trials.values() for d in t.decisions), key=lambda d: int(d["seq"]))

    def violation(self, trial: TrialState) -> float:
        """How far a trial is beyond the bounds where its value is from, the sum of the excesses: 0 where it meets all
        of them, and while the base model is not measured.
        """
        return violation(trial.losses, self.bounds.limits)

    def rank_key(self, trial: TrialState) -> tuple[float, float, int]:
        """What the ranking sorts by: trials that meet the bounds first, by the objective; then those that do not, by
        how far they are above them. Ties keep the order of proposal.
        """
        return self.violation(trial), self.objective.cost(trial.objective), trial.number

    def accepted(self, *commands: str) -> list[Row]:
        """The accepted `command` rows of these commands, in order."""
        return [c for c in self.commands if c["command"] in commands and c["accepted"]]

    @property
    def status(self) -> str:
        """``running``, ``not started`` (nothing is recorded), ``crashed`` (no writer, no finish row), or the finish
        row's status.
        """
        if self.finish is not None:
            return str(self.finish["status"])
        running = self.writer is not None or any(t.status == "running" for t in self.trials.values())
        if running:
            return "running"
        return "crashed" if self.rows else "not started"

    def apply(self, row: Row) -> None:
        """Fold one row; unknown kinds are ignored. A row made by hand may lack ``seq``."""
        if "seq" not in row:
            row = {"seq": self.rows, **row}
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
            self.set_unfinished("interrupted")
        elif kind == "cost":
            self._cost(row)
        elif kind in ("fault", "enough"):
            (self.faults if kind == "fault" else self.enough).append(row)
        elif kind == "command":
            self._command(row)
        elif kind == "finalists":
            self.finalists = row
        elif kind == "score":
            self._score(row)
        trial = self.trials.get(row.get("trial_id") or "")
        if trial is not None and kind != "trial":
            trial.apply(row)
            if kind in ("end", "start"):
                self._update_leader(trial)

    def set_unfinished(self, status: str) -> None:
        """Set the status of all trials that have neither ended nor been paused."""
        for trial in self.trials.values():
            trial.set_unfinished(status)

    def drop_partial_results(self) -> None:
        """Drop results that a crash cut off; see `TrialState.drop_partial_result`."""
        for trial in self.trials.values():
            trial.drop_partial_result()

    def with_status(self, *statuses: str) -> list[TrialState]:
        """Trials of these statuses, in the order of proposal."""
        return [t for t in self.trials.values() if t.status in statuses]

    def _update_leader(self, trial: TrialState) -> None:
        """Keep the first of the ranking at hand: sorting all trials at each end would be slow in long sweeps."""
        if trial is self.leader:  # it has restarted, or ended with another objective
            self._find_leader()
        elif trial.ranked and (self.leader is None or self.rank_key(trial) < self.rank_key(self.leader)):
            self.leader = trial

    def _find_leader(self) -> None:
        ranked = (t for t in self.trials.values() if t.ranked)
        self.leader = min(ranked, key=self.rank_key, default=None)

    def _set_bounds(self) -> None:
        """Take the bounds from the spec and the base model's scores; the ranking depends on them."""
        bounds = Bounds.of(self.spec, self.scores)
        if bounds != self.bounds:
            self.bounds = bounds
            self._find_leader()

    def _cost(self, row: Row) -> None:
        phase, seconds = row["phase"], row["seconds"]
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.gpu_phases[phase] = self.gpu_phases.get(phase, 0.0) + seconds * row.get("gpus", 0.0)
        if row.get("slot") is not None:
            self.slots[-1].add(row["slot"])
        if row.get("trial_id") is None:
            self.costs.append(row)

    def _score(self, row: Row) -> None:
        self.scores[row["trial_id"], row["name"]] = row
        if row["trial_id"] is None:
            self._set_bounds()

    def _command(self, row: Row) -> None:
        self.commands.append(row)
        if row["command"] == "extend" and row["accepted"]:
            self.asked_trials = max(self.asked_trials or 0, int(row["arguments"]["trials"]))

    def _sweep(self, row: Row) -> None:
        before, asked = (_trials_of(self.spec), _trials_of(row.get("spec") or {}))
        if asked != before or "search.trials" in (
            row.get("changes") or {}
        ):  # else an extension stays in force
            self.asked_trials = asked
        if self.header:
            self.resumes.append(row)
            self.finish = None
            self.set_unfinished("interrupted")
            self.drop_partial_results()
            for trial in self.trials.values():
                trial.budget_samples = int(row.get("budget_samples") or trial.budget_samples)
        else:
            self.header = row
        self.objective = Objective.of(self.spec)
        self._set_bounds()

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
            coordinates=row.get("coordinates") or {},
            objective_rungs=None if (rungs := row.get("objective_rungs")) is None else tuple(rungs),
            budget_samples=self.budget_samples,
            seq=row["seq"],
            proposed=row.get("time", 0.0),
        )


def is_baseline(number: int, origin: str) -> bool:
    """Whether a trial of the search is the baseline: the first one, if its params were given."""
    return number == 0 and origin == "start_with"


def _trials_of(spec: dict[str, Any]) -> int | None:
    asked = (spec.get("search") or {}).get("trials")
    return None if asked is None else int(asked)
