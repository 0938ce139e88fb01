"""The proposer as a searcher of Ray Tune, and how a trial ended (`outcome_of` is the only place that decides it).

Tune's own trial ids are used as addresses only; study and ledger know trials by ours (``t000``). Tune cannot tell a
stopped trial from a finished one, so the driver notes each trial's outcome before Tune reports its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from ray.tune.search import Searcher

from sweepft.early_stopping import set_losses, value_so_far
from sweepft.early_stopping.from_ledger import final_problem
from sweepft.search.proposer import Proposal, Proposer
from sweepft.search.study import nominal_step
from sweepft.slot.best_point import BestPoint
from sweepft.slot.jobs import Job, TrialJob, to_tune_config
from sweepft.spec import TrainConfig


@dataclass(frozen=True)
class Outcome:
    """How a trial left its slot.

    Attributes:
        status: ``completed | stopped | paused | diverged | failed | interrupted``, or ``lost``: its slot is gone, and
            it runs again on another one.
        objective: The trial's value, at the full budget or at its best evaluation; None unless completed.
        reason: A sentence; None for a trial that reached the full budget.
        delay: Seconds to wait before a lost trial is proposed again.
        last: Whether a lost trial is proposed after all others, not before.
    """

    status: str
    objective: float | None = None
    reason: str | None = None
    delay: float = 0.0
    last: bool = False


INTERRUPTED: Final = Outcome("interrupted", reason="the sweep was interrupted")
"""The trial neither ended by itself nor was flagged: a resumed sweep continues it."""

PAUSED_SWEEP: Final = Outcome("interrupted", reason="the sweep was paused")


def outcome_of(result: Mapping[str, Any], decision: Mapping[str, Any] | None) -> Outcome:
    """How a trial ended, from its last result and the row of its last stopping decision (None without any)."""
    if result.get("failed"):
        if "storage" in result:  # the sweep ends with it; the trial itself has not failed
            return INTERRUPTED
        return Outcome("failed", reason=str(result["failed"]))
    if result.get("diverged"):
        return Outcome("diverged", reason=str(result["diverged"]))
    if result.get("samples_seen", 0) >= result.get("budget_samples", math.inf):
        value = result.get("objective")
        problem = final_problem(value)
        if value is None or problem is not None:
            return Outcome("diverged", reason=problem)
        return Outcome("completed", float(result.get("best_objective", value)))
    if result.get("patience"):
        return Outcome("completed", float(result["best_objective"]), reason=str(result["patience"]))
    if decision is not None and decision["action"] == "divergence_check":
        return Outcome("diverged", reason=decision["reason"])
    if decision is not None and decision["action"] == "stop":
        return Outcome("stopped", reason=decision["reason"])
    if decision is not None and decision["action"] == "pause":
        return Outcome("paused", reason=decision["reason"])
    return PAUSED_SWEEP if result.get("paused") else INTERRUPTED


def outcome_without_decisions(result: Mapping[str, Any], budget_samples: int, error: bool) -> Outcome:
    """The same where no driver has said it: in a Tuner with another scheduler, or of a trial that Tune itself ended."""
    if error:
        return Outcome("failed", reason="the trial raised an error")
    if result.get("diverged"):
        return Outcome("diverged", reason=str(result["diverged"]))
    value = value_so_far(result).get("objective")
    over = result.get("samples_seen", -math.inf) >= budget_samples or result.get("patience")
    if over and value is not None:
        return Outcome("completed", float(value))
    if not result:
        return Outcome("failed", reason="the trial ended without a result")
    if not result.get("done"):
        return INTERRUPTED
    return Outcome("stopped", reason="stopped by the scheduler")


class SearchControl:
    """What the searcher asks its driver. This one lets a search run to its end, for Tuners without a driver."""

    def ending(self) -> bool:
        """Whether nothing is proposed any more, not even trials that lost their slot."""
        return False

    def may_propose(self) -> bool:
        """Whether new and paused trials are proposed."""
        return True

    def found_enough(self) -> bool:
        """Whether trials that have begun are the last ones: nothing new is proposed and no paused trial resumed."""
        return False

    def resume_candidates(self) -> Sequence[str]:
        """Paused trials that are worth resuming, the best first."""
        return ()

    def limits(self) -> Mapping[str, float] | None:
        """Largest loss allowed by bounded validation set; None while the base model's loss is not known."""
        return {}

    def next_before_search(self) -> Job | None:
        """What runs before any trial, if it has not been given out."""
        return None

    def restarts(self, trial_id: str) -> int:
        """How often a trial was restarted after a fault."""
        return 0

    def most_trials(self) -> int | None:
        """Trials that have room at once; None where the Tuner's own limit says it."""
        return None

    def objective_rungs(self, trial_id: str) -> tuple[float, ...] | None:
        """Rungs at which the task of the objective is measured in a trial; None for all of them."""
        return None

    def proven(self, trial_id: str) -> TrainConfig | None:
        """Train config of another trial, which has taken steps; None if there is none."""
        return None

    def best_point(self, trial_id: str) -> BestPoint | None:
        """The best evaluation of a trial that was reported before; None without any."""
        return None

    def patience(self, proposal: Proposal) -> int | None:
        """Evaluations without a better one after which a trial ends; None where it trains to its end."""
        return None

    def next_after_search(self) -> Job | Literal["wait", "finished"]:
        """What runs once no trial of the search is left."""
        return "finished"


class OptunaSearcher(Searcher):
    """Feeds a Tuner from a :class:`Proposer`. Each suggestion carries a :class:`~sweepft.slot.jobs.TrialJob`.

    Args:
        proposer: Where trials come from.
        budget_samples: Samples of every trial; objectives are noted at the rungs' share of it.
        control: Of the sweep.
        outcomes: How trials end, by trial id, noted by the driver before Tune reports the end.
        reported: Samples up to which the ledger holds each trial.
        tokens_per_sample: Mean target tokens of a training row, for half-lives in tokens.
    """

    def __init__(
        self,
        proposer: Proposer,
        budget_samples: int,
        control: SearchControl | None = None,
        outcomes: dict[str, Outcome] | None = None,
        reported: Mapping[str, int] | None = None,
        tokens_per_sample: float | None = None,
    ) -> None:
        super().__init__(metric="objective", mode=proposer.spec.objective.mode)
        self.proposer = proposer
        self.budget_samples = budget_samples
        self._tokens_per_sample = tokens_per_sample
        self.outcomes = {} if outcomes is None else outcomes
        self.reported = dict(reported or {})
        self._control = control or SearchControl()
        self._proposals: dict[str, Proposal] = {}
        self._lost: list[Proposal] = []
        self._set_aside: list[Proposal] = []
        self._hold_until = 0.0  # time.monotonic; a trial that loses slot after slot waits

    def set_search_properties(
        self, metric: str | None, mode: str | None, params: dict[str, Any], **spec: Any
    ) -> bool:
        """Accept any: metric and mode are fixed."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job, or FINISHED; None while a running trial may still lead to another proposal."""
        if self._control.ending():
            return str(Searcher.FINISHED)
        first = self._control.next_before_search()
        if first is not None:
            return to_tune_config(first)
        at_best = self.proposer.spec.objective.at == "best"
        limits = self.proposer.limits = self._control.limits()
        if at_best and limits is None and self._control.may_propose():
            return None  # they decide which evaluation of a trial is its best, and are being measured
        if self._lost and time.monotonic() < self._hold_until:
            return None
        most = self._control.most_trials()
        if most is not None and len(self._proposals) >= most:
            return None
        proposal = self._lost.pop(0) if self._lost else self._new()
        if proposal is None and self._may_try_again():
            proposal = self._set_aside.pop(0)
        if proposal is None:
            return None if self._proposals else self._after_search()
        self._proposals[trial_id] = proposal
        train_config = self.proposer.spec.train_config(
            proposal.params, self.budget_samples, self._tokens_per_sample
        )
        return to_tune_config(
            TrialJob(
                trial_id=proposal.trial_id,
                number=proposal.number,
                params=dict(proposal.params),
                train_config=train_config,
                origin=proposal.origin,
                study_number=proposal.study_number,
                resumed=proposal.resumed,
                reported_samples=self.reported.get(proposal.trial_id, 0),
                restarts=self._control.restarts(proposal.trial_id),
                coordinates=dict(proposal.coordinates),
                objective_rungs=self._control.objective_rungs(proposal.trial_id),
                proven=self._control.proven(proposal.trial_id),
                best=self._control.best_point(proposal.trial_id) if at_best else None,
                limits=dict(limits or {}) if at_best else {},
                patience=self._control.patience(proposal),
            )
        )

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note the trial's value and losses at a rung, and how far the trial has come."""
        proposal = self._proposals.get(trial_id)
        if proposal is not None:
            self._note(proposal, result)
            self.reported[proposal.trial_id] = int(result.get("samples_seen", 0))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended; keep one that was paused or lost its slot."""
        proposal = self._proposals.pop(trial_id, None)
        if proposal is None:
            return
        result = result or {}
        self.proposer.limits = self._control.limits()
        self._note(proposal, result)  # Tune passes a trial's last result here only
        outcome = self.outcomes.get(proposal.trial_id)
        if outcome is None:
            outcome = outcome_without_decisions(result, self.budget_samples, error)
        if outcome.status == "paused":
            self.reported[proposal.trial_id] = int(result["samples_seen"])
            self.proposer.pause(proposal)
        elif outcome.status == "lost":
            (self._set_aside if outcome.last else self._lost).append(replace(proposal, resumed=True))
            if outcome.delay > 0:
                self._hold_until = time.monotonic() + outcome.delay
        else:
            self.proposer.tell(proposal.trial_id, outcome.status, outcome.objective, outcome.reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study has its own file, and a resumed sweep is a new Tuner."""

    def _may_try_again(self) -> bool:
        """Whether to propose a trial that could not start before: another one has trained, or none is running."""
        if not self._set_aside:
            return False
        return not self._proposals or self._control.proven(self._set_aside[0].trial_id) is not None

    def _new(self) -> Proposal | None:
        """A new trial, or a paused one to resume."""
        if not self._control.may_propose():
            return None
        if self._control.found_enough():
            return self.proposer.next_waiting()
        return self.proposer.ask() or self._resume_paused()

    def _resume_paused(self) -> Proposal | None:
        paused = self.proposer.paused
        candidates = self._control.resume_candidates() if paused else ()
        first = next((trial_id for trial_id in candidates if trial_id in paused), None)
        return None if first is None else self.proposer.bring_back(first)

    def _after_search(self) -> dict[str, Any] | str | None:
        following = self._control.next_after_search()
        if following == "wait":
            return None
        return str(Searcher.FINISHED) if following == "finished" else to_tune_config(following)

    def _note(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        result = value_so_far(result)
        rung = result.get("rung")
        if rung is not None:
            step = nominal_step(rung, self.budget_samples)
            self.proposer.report(proposal.trial_id, step, result.get("objective"), set_losses(result))
