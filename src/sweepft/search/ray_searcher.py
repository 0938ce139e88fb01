"""The proposer as a searcher of Ray Tune.

One idea: Ray's trials have ids of their own; here they are only addresses. What is told to the study is how the
driver says a trial ended (:meth:`OptunaSearcher.set_outcome`), for Tune itself tells stopped trials from finished
ones no better than by their last result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ray.tune.search import Searcher

from sweepft.search.proposer import Proposal, Proposer
from sweepft.search.study import nominal_step


class OptunaSearcher(Searcher):
    """Feeds a Tuner from a :class:`Proposer`.

    Each suggestion is a config ``{"trial_id", "number", "origin", "resumed", "study_number", "params", "train_config":
    what it trains with, "reported_samples": how far it had got when the
    sweep was interrupted, it was parked, or its slot was lost, "faults": how often it was brought back already}``.

    Args:
        proposer: Where trials come from.
        budget_samples: Samples of every trial; windows are noted at their share of it.
        should_stop: Asked before each proposal; True ends the proposing for good (limits, a full disk). Not pickled.
        reported: Samples up to which the ledger holds each trial.

    Attributes:
        lost: Trials under way that lost their slot; they come back before anything new, whatever limit is reached.
        hold_until: Nothing is proposed before that moment (``time.monotonic``) while there are lost trials.
        ending: Asked first; True ends all proposing, lost trials included. Not pickled.
        faults: How often a trial was brought back. Not pickled.
        comebacks: Asked when there is nothing new to propose: the parked trials that are worth coming back, best
            first. None where no trial is ever parked. Not pickled.
        afterwards: Asked when the search is over (told whether trials of it are still under way): the config of what
            else is to run, ``wait`` or ``finished``. None where nothing follows. Not pickled.
    """

    def __init__(
        self,
        proposer: Proposer,
        budget_samples: int,
        should_stop: Callable[[], bool] | None = None,
        reported: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(metric="eval_loss", mode="min")
        self.proposer = proposer
        self.budget_samples = budget_samples
        self.should_stop = should_stop
        self.resume_candidates: Callable[[], Sequence[str]] | None = None
        self.ending: Callable[[], bool] | None = None
        self.faults: Callable[[str], int] | None = None
        self.lost: list[Proposal] = []
        self.hold_until = 0.0
        self.afterwards: Callable[[bool], dict[str, Any] | Literal["wait", "finished"]] | None = None
        self.reported = dict(reported or {})
        self.proposals: dict[str, Proposal] = {}
        self._outcomes: dict[str, tuple[str, float | None, str | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        callables = ("should_stop", "resume_candidates", "ending", "faults", "afterwards")
        return {**self.__dict__, **dict.fromkeys(callables)}

    def set_search_properties(
        self, metric: str | None, mode: str | None, params: dict[str, Any], **spec: Any
    ) -> bool:
        """Take constants of ``param_space`` as they are; metric and mode are settled."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, or FINISHED; None while a trial under way may bring back itself or another."""
        if self.ending is not None and self.ending():
            return str(Searcher.FINISHED)
        if self.lost and time.monotonic() < self.hold_until:
            return None
        proposal = self.lost.pop(0) if self.lost else self._new()
        if proposal is None:
            return None if self.proposals else self._after_the_search()
        self.proposals[trial_id] = proposal
        train_config = self.proposer.spec.train_config(proposal.params, self.budget_samples)
        return {
            "trial_id": proposal.trial_id,
            "number": proposal.number,
            "origin": proposal.origin,
            "resumed": proposal.resumed,
            "study_number": proposal.study_number,
            "params": dict(proposal.params),
            "train_config": train_config,
            "reported_samples": self.reported.get(proposal.trial_id, 0),
            "faults": 0 if self.faults is None else self.faults(proposal.trial_id),
        }

    def set_outcome(
        self, trial_id: str, status: str, value: float | None = None, reason: str | None = None
    ) -> None:
        """Say how a trial ends, before Tune says that it does.

        Args:
            trial_id: Ours (``t000``).
            status: ``completed | stopped | parked | lost | diverged | failed | interrupted``.
            value: The objective at full budget, of completed trials.
            reason: Why it ends.
        """
        self._outcomes[trial_id] = (status, value, reason)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note the held-out loss of a window, and how far the trial has come."""
        proposal = self.proposals.get(trial_id)
        if proposal is not None:
            self._note(proposal, result)
            self.reported[proposal.trial_id] = int(result.get("samples_seen", 0))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended: as said before, else as its last result looks. Keep one that returns."""
        proposal = self.proposals.pop(trial_id, None)
        if proposal is None:
            return
        self._note(proposal, result or {})  # a trial's last result comes here only
        outcome = self._outcomes.pop(proposal.trial_id, None)
        status, value, reason = outcome or self._looks_like(result or {}, error)
        if status == "paused":
            self.reported[proposal.trial_id] = int((result or {})["samples_seen"])
            self.proposer.pause(proposal)
        elif status == "lost":
            self.lost.append(replace(proposal, resumed=True))
        else:
            self.proposer.tell(proposal.trial_id, status, value, reason)

    def _new(self) -> Proposal | None:
        """A trial to begin, or a parked one to go on with, unless a limit is reached."""
        over = self.should_stop is not None and self.should_stop()
        return None if over else self.proposer.ask() or self._come_back()

    def _come_back(self) -> Proposal | None:
        worth = (
            self.resume_candidates() if self.resume_candidates is not None and self.proposer.paused else ()
        )
        first = next((trial_id for trial_id in worth if trial_id in self.proposer.paused), None)
        return None if first is None else self.proposer.bring_back(first)

    def _after_the_search(self) -> dict[str, Any] | str | None:
        follows = "finished" if self.afterwards is None else self.afterwards(bool(self.proposals))
        if isinstance(follows, dict):
            return follows
        return None if follows == "wait" else str(Searcher.FINISHED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study has a file of its own, and a resumed sweep is a new Tuner."""

    def _note(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        rung, value = result.get("rung"), result.get("eval_loss")
        if rung is not None and value is not None:
            self.proposer.report(proposal.trial_id, nominal_step(rung, self.budget_samples), value)

    def _looks_like(self, result: Mapping[str, Any], error: bool) -> tuple[str, float | None, str | None]:
        if error:
            return "failed", None, "the trial raised an error"
        if result.get("diverged"):
            return "diverged", None, str(result["diverged"])
        value = result.get("eval_loss")
        if result.get("samples_seen", -math.inf) >= self.budget_samples and value is not None:
            return "completed", float(value), None
        if not result:
            return "failed", None, "the trial ended without a result"
        if not result.get("done"):
            return "interrupted", None, "the sweep was interrupted"
        return "stopped", None, "stopped by the scheduler"
