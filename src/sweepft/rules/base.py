"""What a rule is, and the rules by name.

A rule is a pure function of the cohort: it keeps nothing that could not be computed again from it, so a
sweep rebuilt from its records gets the same verdicts.
"""

from __future__ import annotations

from typing import Any, Protocol

from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.verdict import Judgement
from sweepft.rules.windows import Window

__all__ = ["NoRule", "Rule"]


class Rule(Protocol):
    """An early-termination rule."""

    @property
    def name(self) -> str:
        """The rule's name in verdicts and reports."""
        ...

    @property
    def rejudges(self) -> bool:
        """Whether a trial is judged again at every report after a window, as its peers become known."""
        ...

    def judge(self, cohort: Cohort, trial: TrialRecord, window: Window) -> Judgement:
        """Judge a trial at a window; its snapshot there is in ``trial.snapshots[window]``."""
        ...

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """What the rule has learned, JSON-able."""
        ...


class NoRule:
    """Condemns nobody: only the guards act."""

    name = "none"
    rejudges = False

    def judge(self, cohort: Cohort, trial: TrialRecord, window: Window) -> Judgement:
        """Never condemned."""
        return Judgement(False, "no early-stop rule is set")

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Nothing is learned."""
        return {}
