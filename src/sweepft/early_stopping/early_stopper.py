"""The referee: takes what trials report, asks a rule at each window, and decides.

It knows no Ray, no Optuna and no files: the scheduler, the pruner and the replay all drive this one object,
so what a replay says is what a live sweep would have done. Its answers depend only on the order of inputs.
(A little over 400 lines: one object, whose parts share all of its fields.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from sweepft.early_stopping.audit import AuditResult, audit_result, good_edge, is_audited
from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort, TrialRecord
from sweepft.early_stopping.curve import Report
from sweepft.early_stopping.decisions import BY_USER, Action, RuleDecision, StopDecision
from sweepft.early_stopping.finished_trials import FinishedTrials
from sweepft.early_stopping.pausing import PausedTrial, paused_trials
from sweepft.early_stopping.prior_sweeps import PriorSweeps
from sweepft.early_stopping.rules import NoRule, Rule
from sweepft.early_stopping.rungs import Rung, RungSpec, eligible, parse_rungs

_STATE_VERSION = 2


class EarlyStopper:
    """Judges the trials of one sweep.

    Args:
        rule: The early-termination rule; None for guards only.
        rungs: Where trials are judged, see `sweepft.early_stopping.rungs`.
        budget: A full trial, in units of the time attribute (samples, usually).
        mode: ``min`` or ``max``: which way the objective is good.
        min_steps: Optimizer steps a trial must have done to be judged.
        keep_last: That many trials are left standing, whatever a rule says; so is the leader at a window.
        guards: Stop trials with a non-finite loss or objective, and those that diverge.
        good: Share of trials that count as good, for the audits.
        audit: Share of the condemned trials that run on, so that the rule's mistakes can be counted.
        max_false_discovery_rate: The rate P(good | condemned) above which the rule is switched off.
        seed: Of the audits.
        park: Condemned trials are parked, not stopped: a later report of theirs says that they have come back.
        history: Audits of earlier sweeps; they count before those of this one.
    """

    def __init__(
        self,
        *,
        rule: Rule | None = None,
        rungs: Sequence[RungSpec],
        budget: float,
        mode: Literal["min", "max"],
        min_steps: int = 0,
        keep_last: int = 1,
        guards: bool = True,
        top_fraction: float = 0.2,
        audit: float = 0.0,
        max_false_discovery_rate: float = 0.10,
        seed: int = 0,
        pause: bool = False,
        prior_sweeps: PriorSweeps | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode: 'min' or 'max' is needed (got {mode!r})")
        if not (math.isfinite(budget) and budget > 0):
            raise ValueError(
                f"budget: a positive number of the time attribute's units is needed (got {budget!r})"
            )
        if not 0 <= audit <= 1:
            raise ValueError(f"audit: a share between 0 and 1 is needed (got {audit!r})")
        self.top_fraction, self.audit, self.max_false_discovery_rate, self.seed = (
            top_fraction,
            audit,
            max_false_discovery_rate,
            seed,
        )
        self.pause, self.prior_sweeps = pause, prior_sweeps or PriorSweeps()
        self._audits: tuple[int, AuditResult] | None = None
        self._paused_trials: tuple[tuple[int, bool], list[PausedTrial]] | None = None
        self.rule: Rule = rule or NoRule()
        self.rungs = parse_rungs(rungs)
        self.budget = float(budget)
        self.min_steps = min_steps
        self.keep_last = keep_last
        self.guards = guards
        self.cohort = Cohort(mode)
        self._ends = FinishedTrials(self.cohort)
        self.decisions: list[StopDecision] = []
        self._pinned: dict[str, str] = {}

    # ----- what happens to trials ------------------------------------------------------------------------

    def add(self, trial_id: str, params: Mapping[str, Any] | None = None) -> None:
        """A trial joins, at any time, or is tried again after a failure."""
        self.cohort.add(trial_id, params or {})

    def report(self, trial_id: str, report: Report) -> list[StopDecision]:
        """A running trial reported; returns what was decided, in order. The last one may end the trial."""
        record = self.cohort.add(trial_id, {})
        self._back(record, report)
        if record.status != "running":
            return []
        reached = self._take(record, report)
        decisions = self._guard(record, report)
        over = record.curve.last_progress >= self.budget  # nothing is left to save
        for rung in reached if not over else ():
            if not decisions or not decisions[-1].ends_trial:
                decisions.append(self._decide(record, rung))
        if not over and not reached and not decisions:
            decisions = self._redecide(record)
        if decisions and decisions[-1].ends_trial:
            self._end(record, decisions[-1].action)
        self.decisions += decisions
        return decisions

    def complete(
        self, trial_id: str, report: Report | None = None, *, final: float | None = None
    ) -> list[StopDecision]:
        """A trial ended by itself. Its final objective is ``final``, or else the last one it reported.

        Nothing is judged any more, but a trial that ended because it diverged gets its ``guard`` verdict.
        """
        record = self.cohort.add(trial_id, {})
        self._back(record, report)
        if record.status != "running":
            return []
        decisions = []
        if report is not None:
            self._take(record, report)
            if report.bad is not None:
                decisions = [
                    self._decision(
                        record, None, "divergence_check", "divergence_check", RuleDecision(True, report.bad)
                    )
                ]
                self.cohort.set_status(record, "diverged")
                record.curve.forget()
                self.decisions += decisions
                return decisions
        last = record.curve.last_metric
        self.cohort.complete(record, final if final is not None else last if math.isfinite(last) else None)
        record.curve.forget()
        return decisions

    def take(self, trial_id: str, report: Report) -> list[Rung]:
        """Note a report without judging it; returns the windows newly reached at which it may be judged."""
        return self._take(self.cohort.add(trial_id, {}), report)

    def decide(self, trial_id: str, rung: Rung) -> StopDecision:
        """Judge a running trial at a window that `take` returned, without acting on the verdict.

        For callers that keep trials elsewhere (Optuna's storage); live sweeps use `report`.
        """
        return self._decide(self.cohort.trials[trial_id], rung)

    def out(self, trial_id: str, p_top: float | None) -> None:
        """A trial was stopped elsewhere, with this probability of being good."""
        record = self.cohort.trials[trial_id]
        record.p_flagged = p_top
        self.cohort.set_status(record, "stopped")

    def note(self, trial_id: str, report: Report) -> None:
        """Take a report that was judged already: the guards speak again, the rule's word follows by `adopt`."""
        record = self.cohort.add(trial_id, {})
        self._back(record, report)
        if record.status != "running":
            return
        reached = self._take(record, report)
        guards = self._guard(record, report)
        self.decisions += guards
        if guards:
            self._end(record, "divergence_check")
        elif record.curve.last_progress < self.budget and (reached or self._due_again(record)):
            record.judged_on = self.cohort.seen(record)

    def adopt(self, decision: StopDecision) -> None:
        """Take over what was decided when the sweep ran, without asking the rule again."""
        record = self.cohort.trials[decision.trial_id]
        self.decisions.append(decision)
        if decision.score is not None:
            lowest = record.lowest_score
            record.lowest_score = decision.score if lowest is None else min(lowest, decision.score)
        if decision.action in ("stop", "pause", "audit"):
            record.flagged_at = next(w.name for w in self.rungs if w.fraction == decision.rung)
            record.p_flagged, record.audited = decision.p_top, decision.action == "audit"
        if decision.ends_trial and record.status == "running":
            self._end(record, decision.action)

    def fail(self, trial_id: str) -> None:
        """A trial failed; `add` sets it running again."""
        self._leave(trial_id, "failed", "running", "paused")

    def remove(self, trial_id: str) -> None:
        """A running trial was withdrawn before it ended."""
        self._leave(trial_id, "removed", "running")

    def give_up(self, trial_id: str) -> None:
        """A parked trial will not come back."""
        self._leave(trial_id, "stopped", "paused")

    def pin(self, trial_id: str, who: str) -> None:
        """A person wants this trial to run to its end: no rule ends it any more; the guards still do."""
        self._pinned[trial_id] = who

    def stop(self, trial_id: str, reason: str) -> StopDecision:
        """A person ends a running trial: it is withdrawn, for nobody has judged that it would end badly."""
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
        """Take a trial out as its last verdict says; only a parked one may need its curve again."""
        if action == "pause":
            self.cohort.set_status(record, "paused")
            return
        self.cohort.set_status(record, "diverged" if action == "divergence_check" else "stopped")
        record.curve.forget()

    def _back(self, record: TrialRecord, report: Report | None) -> None:
        """A parked trial that reports something new is training again."""
        told = report.observations if report is not None and record.status == "paused" else ()
        if any(o.progress > record.curve.last_progress for o in told):
            self.cohort.set_status(record, "running")

    def paused_trials(self, *, from_scratch: bool = False) -> list[PausedTrial]:
        """The parked trials, the likeliest to be good first, each with what it must promise to come back.

        Args:
            from_scratch: Whether a trial that comes back must be trained again from its start.
        """
        asked = (self.cohort.changes, from_scratch)
        if (
            self._paused_trials is None or self._paused_trials[0] != asked
        ):  # a waiting search asks many times a second
            model = (
                self.rule
                if isinstance(self.rule, CalibratedRule)
                else CalibratedRule(top_fraction=self.top_fraction)
            )
            found = paused_trials(self.cohort, model, self.budget, from_scratch=from_scratch)
            self._paused_trials = (asked, found)
        return list(self._paused_trials[1])

    # ----- how it decides --------------------------------------------------------------------------------

    def _take(self, record: TrialRecord, report: Report) -> list[Rung]:
        """Append the report to the curve; returns the windows newly reached at which it may be judged."""
        record.warmup_steps = report.warmup_steps or record.warmup_steps
        curve = record.curve
        curve.data_order = report.data_order or curve.data_order
        curve.blocks.update(report.blocks)
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
                if eligible(step=step, min_steps=self.min_steps, warmup_steps=record.warmup_steps):
                    self.cohort.put(record.trial_id, rung, curve.snapshot())
                    judged.append(rung)
        return judged

    def _guard(self, record: TrialRecord, report: Report) -> list[StopDecision]:
        if not self.guards:
            return []
        reason = report.bad
        if reason is None and record.curve.diverging(self.budget):
            start = sorted(record.curve.start)[len(record.curve.start) // 2]
            reason = (
                f"training loss has been above twice its start ({start:.4g}) for the last"
                f" {record.curve.high_count} points"
            )
        if reason is None:
            return []
        return [
            self._decision(record, None, "divergence_check", "divergence_check", RuleDecision(True, reason))
        ]

    def _decide(self, record: TrialRecord, rung: Rung) -> StopDecision:
        record.judged_on = self.cohort.seen(record)
        rule_decision = self.rule.decide(self.cohort, record, rung)
        if record.snapshots[rung].metric_step:
            rule_decision.evidence["objective_step"] = record.snapshots[rung].metric_step
        if rule_decision.score is not None:
            lowest = record.lowest_score
            record.lowest_score = rule_decision.score if lowest is None else min(lowest, rule_decision.score)
        if record.audited:
            rule_decision = _spared(rule_decision, f"it is audited since {record.flagged_at}")
        if not rule_decision.flagged:
            return self._decision(record, rung, "continue", self.rule.name, rule_decision)
        veto = self._veto(record, rung)
        if veto is not None:
            return self._decision(record, rung, "continue", self.rule.name, _spared(rule_decision, veto))
        record.flagged_at, record.p_flagged = rung.name, rule_decision.p_top
        record.audited = is_audited(self.seed, record.trial_id, self.audit)
        action: Action = "audit" if record.audited else "pause" if self.pause else "stop"
        return self._decision(record, rung, action, self.rule.name, rule_decision)

    def _redecide(self, record: TrialRecord) -> list[StopDecision]:
        """Between rungs: what peers have shown since may condemn a trial; else there is nothing to say.

        One that was condemned before (audited, or parked and brought back) waits for its next window.
        """
        if not self._due_again(record):
            return []
        decision = self._decide(record, next(reversed(record.snapshots)))
        return [decision] if decision.action != "continue" else []

    def _due_again(self, record: TrialRecord) -> bool:
        open_to_it = self.rule.rejudges and bool(record.snapshots) and record.flagged_at is None
        return open_to_it and self.cohort.news(record)

    def _veto(self, record: TrialRecord, rung: Rung) -> str | None:
        if record.trial_id in self._pinned:
            return f"it is pinned by {self._pinned[record.trial_id]}"
        if self.cohort.leads(rung, record.snapshots[rung].metric):
            return f"it has the best objective of all at {rung.name}"
        if self.cohort.standing <= self.keep_last:
            return f"only {self.cohort.standing} trials are left standing"
        if self.audits().status == "refuted":
            return "audits showed that this rule stops too many good trials here: only the guards act"
        return None

    def audits(self) -> AuditResult:
        """What the completed audits say, those of earlier sweeps first.

        Good is judged by the finals of completed trials, where an audited one stands for those stopped like it.
        """
        done = len(self.cohort.finals)
        if self._audits is None or self._audits[0] != done:
            outcomes = [*self.prior_sweeps.outcomes, *self._own_audits()]
            self._audits = (done, audit_result(outcomes, self.max_false_discovery_rate))
        return self._audits[1]

    def _own_audits(self) -> list[bool]:
        """Whether each audited trial of this sweep that has ended was good after all, in order of their ends."""
        self._ends.take(self.audit)
        finals = self._ends.finals
        edge = good_edge(finals, self._ends.weights, self.top_fraction)
        return [finals[i] >= edge for i in self._ends.audited]

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

    # ----- what it can say and keep ----------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Counts, and the share of the budget that was not spent, JSON-able."""
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
            "audits": {
                "rate_of": "good among condemned",
                "limit": self.max_false_discovery_rate,
                **self.audits().to_dict(),
                "own": _counts(self._own_audits()),
                "earlier": _counts(self.prior_sweeps.outcomes) | {"sweeps": len(self.prior_sweeps.audits)},
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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: Written by another version, or for the other direction of the objective.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"state_dict: version {_STATE_VERSION} is needed (got {state.get('version')!r})\n"
                "  rebuild from the ledger instead"
            )
        if state["mode"] != self.cohort.mode:
            raise ValueError(
                f"state_dict: saved for mode {state['mode']!r}, this one has {self.cohort.mode!r}\n"
                "  use the same mode"
            )
        self._audits = self._paused_trials = None
        self.cohort = Cohort.from_state(self.cohort.mode, state["cohort"])
        self._ends = FinishedTrials(self.cohort)
        self.decisions = [StopDecision.from_row(row) for row in state["decisions"]]
        self._pinned = dict(state.get("pinned", {}))


def _counts(outcomes: Sequence[bool]) -> dict[str, int]:
    return {"audited": len(outcomes), "good": sum(outcomes)}


def _spared(rule_decision: RuleDecision, why: str) -> RuleDecision:
    return replace(rule_decision, flagged=False, reason=f"{rule_decision.reason}; but {why}")
