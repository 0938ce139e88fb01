"""The early stopper: takes what trials report, asks a rule at each rung, and decides.

It knows no Ray, no Optuna and no files: the scheduler, the pruner and the replay all drive this one object, so that a
replay decides as a live sweep did. Its answers depend only on the order of its inputs.
(About 500 lines: one object, with methods that share all of its fields.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from sweepft.early_stopping.audit import AuditResult, audit_result, is_audited, top_edge
from sweepft.early_stopping.bound_check import BoundCheck
from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort, FinishedTrials
from sweepft.early_stopping.curve import Report, Snapshot
from sweepft.early_stopping.decisions import (
    BOUNDS,
    BY_USER,
    DIVERGENCE_CHECK,
    Action,
    RuleDecision,
    StopDecision,
)
from sweepft.early_stopping.divergence import examine
from sweepft.early_stopping.pausing import PausedTrial, paused_trials
from sweepft.early_stopping.prior_sweeps import PriorSweeps
from sweepft.early_stopping.rules import NoRule, Rule
from sweepft.early_stopping.rungs import Rung, RungSpec, eligible, is_number, parse_rungs
from sweepft.early_stopping.trial import TrialRecord

_STATE_VERSION = 3
DEFAULT_MIN_STEPS: Final = 20
"""Optimizer steps before a trial is judged, where nothing else is asked for."""


class EarlyStopper:
    """Decides which trials of one sweep are stopped.

    Args:
        rule: The early-stopping rule; None for the divergence check alone.
        rungs: Where trials are judged, see `sweepft.early_stopping.rungs`.
        budget: A full trial, in units of the time attribute (samples, usually).
        mode: ``min`` or ``max``: which way the objective is good.
        min_steps: Optimizer steps a trial must have done to be judged. None for 20, but no more than a quarter of a
            full trial's steps as they show in its reports, so that no trial is too short to be judged at all.
        min_progress: Progress before which no trial is stopped.
        keep_last: Number of trials that no rule may stop; nor is the best trial at a rung stopped.
        divergence_check: Stop trials that diverge, see `sweepft.early_stopping.divergence`.
        top_fraction: The best share of the trials: a flagged trial that ends in it was a wrong stop.
        audit: Share of the flagged trials that are trained to completion, to count wrong stops.
        max_false_discovery_rate: The rate P(top | flagged) above which the rule is switched off.
        seed: Of the audits.
        pause: Flagged trials are paused instead of stopped; a later report of such a trial means that it has resumed.
        prior_sweeps: Their audits count before those of this sweep.

    Raises:
        ValueError: An argument is wrong; the message begins with its name.
    """

    def __init__(
        self,
        *,
        rule: Rule | None = None,
        rungs: Sequence[RungSpec],
        budget: float,
        mode: Literal["min", "max"],
        min_steps: int | None = 0,
        min_progress: float = 0.0,
        keep_last: int = 1,
        divergence_check: bool = True,
        top_fraction: float = 0.2,
        audit: float = 0.0,
        max_false_discovery_rate: float = 0.10,
        seed: int = 0,
        pause: bool = False,
        prior_sweeps: PriorSweeps | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode: must be 'min' or 'max' (got {mode!r})")
        if not (is_number(budget) and budget > 0):
            raise ValueError(
                f"budget: must be a positive number, in units of the time attribute (got {budget!r})"
            )
        for name, value, low, high in (
            ("min_steps", 0 if min_steps is None else min_steps, 0, math.inf),
            ("min_progress", min_progress, 0, budget),
            ("keep_last", keep_last, 0, math.inf),
            ("audit", audit, 0, 1),
            ("top_fraction", top_fraction, 0, 1),
            ("max_false_discovery_rate", max_false_discovery_rate, 0, 1),
        ):
            if not (is_number(value) and low <= value <= high):
                raise ValueError(f"{name}: must be a number between {low:g} and {high:g} (got {value!r})")
        self.rule: Rule = rule or NoRule()
        self.rungs, self.budget = parse_rungs(rungs), float(budget)
        self.min_steps, self.min_progress = min_steps, min_progress
        self.keep_last, self.divergence_check = keep_last, divergence_check
        self.top_fraction, self.audit, self.seed = top_fraction, audit, seed
        self.max_false_discovery_rate = max_false_discovery_rate
        self.pause, self.prior_sweeps = pause, prior_sweeps or PriorSweeps()
        self.cohort = Cohort(mode)
        self._finished = FinishedTrials(self.cohort)
        self._audits: tuple[int, AuditResult] | None = None
        self._paused_trials: tuple[tuple[int, bool], list[PausedTrial]] | None = None
        self.decisions: list[StopDecision] = []
        self._pinned: dict[str, str] = {}
        self._stood_down = False
        self._bounds = BoundCheck()

    # ----- events: what happens to trials ----------------------------------------------------------------

    def add(self, trial_id: str, params: Mapping[str, Any] | None = None) -> None:
        """A trial starts, or is tried again after a failure."""
        self.cohort.add(trial_id, params or {})

    def report(self, trial_id: str, report: Report) -> list[StopDecision]:
        """A running trial reported; returns what was decided, in order. The last one may end the trial."""
        record = self.cohort.add(trial_id, {})
        self._resume(record, report)
        if record.status != "running":
            return []
        return self.judge(trial_id, self._take(record, report), report.bad)

    def judge(self, trial_id: str, reached: Sequence[Rung], bad: str | None = None) -> list[StopDecision]:
        """Judge a running trial of which reports have been taken; the last decision may end it.

        Args:
            trial_id: The trial.
            reached: Rungs that `take` returned.
            bad: Why it has diverged, if it says so itself.
        """
        record = self.cohort.trials[trial_id]
        decisions = self._check_divergence(record, bad)
        if reached and not (decisions and decisions[-1].ends_trial):
            decisions += self._check_bounds(record)
        over = record.last_progress >= self.budget  # nothing is left to save
        for rung in reached if not over else ():
            if not decisions or not decisions[-1].ends_trial:
                decisions.append(self._decide(record, rung))
        if not over and not reached and not (decisions and decisions[-1].ends_trial):
            decisions += self._redecide(record)
        if decisions and decisions[-1].ends_trial:
            self._end(record, decisions[-1].action)
        self.decisions += decisions
        return decisions

    def complete(
        self, trial_id: str, report: Report | None = None, *, final: float | None = None
    ) -> list[StopDecision]:
        """A trial reached its end. Its final objective is ``final``, or else the last one it reported.

        It is not judged any more, but a trial that ended because it diverged gets its ``divergence_check`` decision.
        """
        record = self.cohort.add(trial_id, {})
        self._resume(record, report)
        if record.status != "running":
            return []
        if report is not None:
            self._take(record, report)
            bad = report.bad or (self._ended_without_numbers(record) if final is None else None)
            if bad is not None:
                decision = self._diverged(record, bad)
                self._end(record, decision.action)
                self.decisions.append(decision)
                return [decision]
        last = record.curve.last_metric
        self.cohort.complete(record, final if final is not None else last if math.isfinite(last) else None)
        record.curve.drop_points()
        return []

    def skip(self, trial_id: str, report: Report) -> None:
        """Take the last report of an earlier session. Rungs up to there are passed without a snapshot: what the trial
        was at them is not known.
        """
        record = self.cohort.add(trial_id, {})
        for o in report.observations:
            record.curve.append(o)
            record.reached |= {
                w for w in self.rungs if w.reached(step=o.step, samples_seen=o.progress, budget=self.budget)
            }

    def take(self, trial_id: str, report: Report) -> list[Rung]:
        """Take a report without judging it; returns the rungs newly reached at which the trial may be judged."""
        return self._take(self.cohort.add(trial_id, {}), report)

    def mark_stopped(self, trial_id: str) -> None:
        """A trial was stopped elsewhere."""
        self.cohort.set_status(self.cohort.trials[trial_id], "stopped")

    def note(self, trial_id: str, report: Report) -> None:
        """Take a report judged before: divergence is checked again, the rule's decision follows by `adopt`."""
        record = self.cohort.add(trial_id, {})
        self._resume(record, report)
        if record.status != "running":
            return
        reached = self._take(record, report)
        checked = self._check_divergence(record, report.bad)
        if reached and not (checked and checked[-1].ends_trial):
            checked += self._check_bounds(record)
        self.decisions += checked
        if checked and checked[-1].ends_trial:
            self._end(record, checked[-1].action)
        elif record.curve.last_progress < self.budget and (reached or self._due_again(record)):
            record.judged_on = self.cohort.seen(record)

    def adopt(self, decision: StopDecision) -> None:
        """Take over a recorded decision without asking the rule again."""
        record = self.cohort.trials[decision.trial_id]
        self.decisions.append(decision)
        self._keep_score(record, decision.score)
        if decision.action in ("stop", "pause", "audit"):
            record.flagged_at = next(w.name for w in self.rungs if w.fraction == decision.rung)
            record.audited = decision.action == "audit"
        if decision.ends_trial and record.status == "running":
            self._end(record, decision.action)

    def fail(self, trial_id: str) -> None:
        """A trial failed; `add` sets it running again."""
        self._leave(trial_id, "failed", "running", "paused")

    def remove(self, trial_id: str) -> None:
        """A running trial was withdrawn before it ended."""
        self._leave(trial_id, "removed", "running")

    def give_up(self, trial_id: str) -> None:
        """A paused trial will not resume."""
        self._leave(trial_id, "stopped", "paused")

    def set_bounds(
        self,
        limits: Mapping[str, float],
        base: Mapping[str, float],
        noise: Mapping[str, float] | None = None,
    ) -> None:
        """Bounds on validation losses and tasks, from now on.

        Args:
            limits: Largest loss allowed by validation set, and largest cost by task: its value, turned where more is
                better.
            base: The base model's losses and costs, as far as they are known.
            noise: Standard error of the difference of a cost from the base model's, by task.
        """
        self._bounds.limits, self._bounds.base = dict(limits), dict(base)
        self._bounds.noise = dict(noise or {})

    def pin(self, trial_id: str, who: str) -> None:
        """A user exempts this trial from early stopping; the divergence check still applies."""
        self._pinned[trial_id] = who

    def stop(self, trial_id: str, reason: str) -> StopDecision:
        """A user stops a running trial: it is withdrawn, without a statement on how it would have ended."""
        record = self.cohort.trials[trial_id]
        decision = self._decision(record, None, "stop", BY_USER, RuleDecision(True, reason))
        self.cohort.set_status(record, "removed")
        self.decisions.append(decision)
        return decision

    def _leave(self, trial_id: str, status: Literal["failed", "removed", "stopped"], *before: str) -> None:
        record = self.cohort.trials.get(trial_id)
        if record is not None and record.status in before:
            self.cohort.set_status(record, status)

    def _end(self, record: TrialRecord, action: Action) -> None:
        """Set the status that a decision leads to."""
        if action == "pause":
            self.cohort.set_status(record, "paused")
            return  # a paused trial may need its curve again
        self.cohort.set_status(record, "diverged" if action == "divergence_check" else "stopped")
        record.curve.drop_points()

    def _resume(self, record: TrialRecord, report: Report | None) -> None:
        """A paused trial that reports something new has resumed."""
        reported = report.observations if report is not None and record.status == "paused" else ()
        if any(o.progress > record.curve.last_progress for o in reported):
            self.cohort.set_status(record, "running")

    def paused_trials(self, *, from_scratch: bool = False) -> list[PausedTrial]:
        """The paused trials, the likeliest first, each with the chance that it needs to resume.

        Args:
            from_scratch: Whether a trial that resumes must be trained again from its start.
        """
        asked = (self.cohort.changes, from_scratch)
        # Kept, for a search that waits asks many times a second.
        if self._paused_trials is None or self._paused_trials[0] != asked:
            model = CalibratedRule(top_fraction=self.top_fraction)
            if isinstance(self.rule, CalibratedRule):
                model = self.rule
            found = paused_trials(self.cohort, model, self.budget, from_scratch=from_scratch)
            self._paused_trials = (asked, found)
        return list(self._paused_trials[1])

    # ----- how it decides --------------------------------------------------------------------------------

    def _take(self, record: TrialRecord, report: Report) -> list[Rung]:
        """Append the report to the curve; returns the rungs newly reached at which the trial may be judged."""
        record.warmup_steps = report.warmup_steps or record.warmup_steps
        curve = record.curve
        curve.data_order = report.data_order or curve.data_order
        curve.blocks.update(report.blocks)
        if report.losses:
            self._bounds.take(record, report.losses)
        begins_phase = curve.set_phases(report)
        judged = []
        ahead = [rung for rung in self.rungs if rung not in record.reached]
        for observation in report.observations:
            if not curve.append(observation):
                continue
            step, progress = observation.step, observation.progress
            for rung in ahead[:]:
                if not rung.reached(step=step, samples_seen=progress, budget=self.budget):
                    continue
                ahead.remove(rung)
                record.reached.add(rung)
                if self._eligible(record, step, progress):
                    self.cohort.put(record.trial_id, rung, curve.snapshot())
                    judged.append(rung)
        if begins_phase:
            curve.watch.begin_phase()
        return judged

    def _eligible(self, record: TrialRecord, step: int, progress: float) -> bool:
        least: float = DEFAULT_MIN_STEPS if self.min_steps is None else self.min_steps
        if self.min_steps is None and progress > 0:
            least = min(least, step / progress * self.budget / 4)
        return progress >= self.min_progress and eligible(
            step=step, min_steps=least, warmup_steps=record.warmup_steps
        )

    def _check_divergence(self, record: TrialRecord, bad: str | None) -> list[StopDecision]:
        """The decision to end the trial, if any; once in a sweep, the decision that the check does not."""
        if not self.divergence_check:
            return []
        if bad is not None:
            return [self._diverged(record, bad)]
        if record.last_progress < self.min_progress:
            return []
        last = next(reversed(record.snapshots.items()), None)
        others = (t for t in reversed(self.cohort.trials.values()) if t is not record)
        found = examine(
            record,
            others,
            budget=self.budget,
            sign=self.cohort.sign,
            leads=last is not None and self._leads_others(*last),
        )
        if found is None or found.verdict == "spare":
            return []
        if found.verdict == "end":
            return [self._diverged(record, found.reason)]
        if self._stood_down:
            return []
        self._stood_down = True
        reason = f"not stopped: {found.reason}; divergence checks stand down where most trials are alike"
        evidence = {"alike": found.alike, "compared": found.compared}
        rule_decision = RuleDecision(False, reason, evidence=evidence)
        return [self._decision(record, None, "continue", DIVERGENCE_CHECK, rule_decision)]

    def _check_bounds(self, record: TrialRecord) -> list[StopDecision]:
        """The decision to stop a trial that cannot meet a bound any more. It is stopped also where flagged trials are
        paused or audited, which is about the objective.
        """
        over = record.last_progress >= self.budget or record.trial_id in self._pinned
        found = None if over else self._bounds.out_of_reach(record, self.cohort)
        if found is None:
            return []
        reason, evidence = found
        rung = next(reversed(record.snapshots), None)
        return [self._decision(record, rung, "stop", BOUNDS, RuleDecision(True, reason, evidence=evidence))]

    def _leads_others(self, rung: Rung, snapshot: Snapshot) -> bool:
        others = self.cohort.peers(rung, "metric", snapshot.metric)
        return others > 0 and self.cohort.leads(rung, snapshot.metric)

    def _ended_without_numbers(self, record: TrialRecord) -> str | None:
        """Why a trial counts as diverged that ended by itself: its last losses are not finite, nor is an objective."""
        watch = record.watch
        gaps = (t.watch.longest_gap for t in self.cohort.completed())
        if watch.bad <= watch.longest_gap or watch.measured_since(watch.bad_since):
            return None
        if watch.bad <= max(gaps, default=0):
            return None
        return f"training loss is not finite for the last {watch.bad} points, at the trial's end"

    def _diverged(self, record: TrialRecord, reason: str) -> StopDecision:
        return self._decision(record, None, "divergence_check", DIVERGENCE_CHECK, RuleDecision(True, reason))

    def _keep_score(self, record: TrialRecord, score: float | None) -> None:
        if score is not None:
            record.lowest_score = score if record.lowest_score is None else min(record.lowest_score, score)

    def _decide(self, record: TrialRecord, rung: Rung) -> StopDecision:
        record.judged_on = self.cohort.seen(record)
        rule_decision = self.rule.decide(self.cohort, record, rung)
        if record.snapshots[rung].metric_step:
            rule_decision.evidence.setdefault("objective_step", record.snapshots[rung].metric_step)
        self._keep_score(record, rule_decision.score)
        if record.audited:
            rule_decision = _spared(rule_decision, f"audited since {record.flagged_at}")
        if not rule_decision.flagged:
            return self._decision(record, rung, "continue", self.rule.name, rule_decision)
        veto = self._veto(record, rung)
        if veto is not None:
            return self._decision(record, rung, "continue", self.rule.name, _spared(rule_decision, veto))
        record.flagged_at = rung.name
        record.audited = is_audited(self.seed, record.trial_id, self.audit)
        action: Action = "audit" if record.audited else "pause" if self.pause else "stop"
        return self._decision(record, rung, action, self.rule.name, rule_decision)

    def _redecide(self, record: TrialRecord) -> list[StopDecision]:
        """Between rungs, what peers have reported since may flag a trial; a trial that continues gets no decision.

        A trial that was flagged before (audited, or paused and resumed) waits for its next rung.
        """
        if not self._due_again(record):
            return []
        decision = self._decide(record, next(reversed(record.snapshots)))
        return [decision] if decision.action != "continue" else []

    def _due_again(self, record: TrialRecord) -> bool:
        may_be = self.rule.rejudges and bool(record.snapshots) and record.flagged_at is None
        return may_be and self.cohort.has_news(record)

    def _veto(self, record: TrialRecord, rung: Rung) -> str | None:
        """Why a flagged trial continues all the same, if it does."""
        if record.trial_id in self._pinned:
            return f"pinned by {self._pinned[record.trial_id]}"
        if self.cohort.leads(rung, record.snapshots[rung].metric):
            return f"best objective at {rung.name}"
        if self.cohort.remaining <= self.keep_last:
            return f"only {self.cohort.remaining} trials remain"
        if self.audits().status == "refuted":
            return "rule switched off: audits found too many wrong stops"
        return self._bounds.spares(record, rung, self.cohort)

    def audits(self) -> AuditResult:
        """What the completed audits say, those of prior sweeps first.

        The top fraction is that of the completed trials, where an audited one stands for those stopped like it.
        """
        done = len(self.cohort.finals)
        if self._audits is None or self._audits[0] != done:
            outcomes = [*self.prior_sweeps.outcomes, *self._own_audits()]
            self._audits = (done, audit_result(outcomes, self.max_false_discovery_rate))
        return self._audits[1]

    def _own_audits(self) -> list[bool]:
        """Whether each completed audited trial of this sweep ended in the top fraction, in order of completion."""
        self._finished.update(self.audit)
        finals = self._finished.finals
        edge = top_edge(finals, self._finished.weights, self.top_fraction)
        return [finals[i] >= edge for i in self._finished.audited]

    def _decision(
        self, record: TrialRecord, rung: Rung | None, action: Action, rule: str, rule_decision: RuleDecision
    ) -> StopDecision:
        return StopDecision(
            trial_id=record.trial_id,
            step=record.curve.last_step,
            samples_seen=max(record.curve.last_progress, 0.0),
            rung=rung.fraction if rung else None,
            action=action,
            rule=rule,
            reason=rule_decision.reason,
            p_top=rule_decision.p_top,
            evidence=rule_decision.evidence,
            score=rule_decision.score,
        )

    # ----- summary and state -----------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Counts, and the budget that was not spent in full trials, JSON-able."""
        trials = list(self.cohort.trials.values())
        actions: dict[str, int] = {}
        for decision in self.decisions:
            actions[decision.action] = actions.get(decision.action, 0) + 1
        ended = [t for t in trials if t.status in ("stopped", "paused", "diverged")]
        unspent = sum(max(0.0, 1 - max(t.curve.last_progress, 0) / self.budget) for t in ended)
        statuses = [t.status for t in trials]
        return {
            "rule": self.rule.name,
            "trials": len(trials),
            "statuses": {s: statuses.count(s) for s in dict.fromkeys(statuses)},
            "decisions": actions,
            "trials_saved": unspent,
            "rule_summary": self.rule.summary(self.cohort),
            "divergence_check": {
                "on": self.divergence_check,
                "ended": statuses.count("diverged"),
                "stood_down": self._stood_down,
            },
            "audits": {
                "rate_of": "top among flagged",
                "limit": self.max_false_discovery_rate,
                **self.audits().to_dict(),
                "own": _counts(self._own_audits()),
                "prior_sweeps": _counts(self.prior_sweeps.outcomes)
                | {"sweeps": len(self.prior_sweeps.audits)},
                "pending": sum(t.audited and t.status == "running" for t in trials),
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything it knows, JSON-able and versioned; settings are not in it."""
        return {
            "version": _STATE_VERSION,
            "mode": self.cohort.mode,
            "cohort": self.cohort.to_state(),
            "decisions": [v.to_row() for v in self.decisions],
            "pinned": dict(self._pinned),
            "stood_down": self._stood_down,
            "bounds": self._bounds.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: Written by another version, or for the other direction of the objective.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"state_dict: version must be {_STATE_VERSION} (got {state.get('version')!r})\n"
                "  rebuild from the ledger instead"
            )
        if state["mode"] != self.cohort.mode:
            raise ValueError(
                f"state_dict: saved for mode {state['mode']!r}, not {self.cohort.mode!r}\n  use the same mode"
            )
        self._audits = self._paused_trials = None
        self.cohort = Cohort.from_state(self.cohort.mode, state["cohort"])
        self._finished = FinishedTrials(self.cohort)
        self.decisions = [StopDecision.from_row(row) for row in state["decisions"]]
        self._pinned = dict(state["pinned"])
        self._stood_down = state["stood_down"]
        self._bounds.load_state(state.get("bounds", {}))


def _counts(outcomes: Sequence[bool]) -> dict[str, int]:
    return {"audited": len(outcomes), "top": sum(outcomes)}


def _spared(rule_decision: RuleDecision, why: str) -> RuleDecision:
    return replace(rule_decision, flagged=False, reason=f"{rule_decision.reason}; not stopped: {why}")
