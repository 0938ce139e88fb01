"""What a rule answers (`RuleDecision`) and what the early stopper makes of it (`StopDecision`).

A rule flags a trial or not; the early stopper turns that into continue, stop, pause or audit. Both carry the evidence
and a sentence, so that a report can say why each trial ended.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from sweepft.early_stopping.rungs import Rung

Action = Literal["continue", "stop", "pause", "audit", "divergence_check"]

BY_USER: Final = "user"
"""The ``rule`` of a decision that a user asked for while the sweep ran."""


DIVERGENCE_CHECK: Final = "divergence_check"
"""The ``rule`` of decisions by the divergence check: to end a trial, or (once in a sweep) to stand down."""


BOUNDS: Final = "bounds"
"""The ``rule`` of a decision to stop a trial that is too far above a bound on a validation loss to meet it."""

PATIENCE: Final = "patience"
"""The ``action`` and ``rule`` of the decision that completes a trial which has not become better for so many
evaluations. The slot makes it, not the early stopper, for which the trial reached its end.
"""

NOT_BY_RULES: Final = (BY_USER, DIVERGENCE_CHECK, BOUNDS, PATIENCE)
"""What decides without a rule: such a stop says nothing on the objective, so it is no flag."""


@dataclass(frozen=True)
class RuleDecision:
    """A rule's answer for one trial at one rung.

    Attributes:
        flagged: The rule expects that this trial will not end in the top fraction.
        reason: One sentence.
        p_top: Estimated probability that the trial ends in the top fraction, where the rule has one.
        evidence: Numbers behind it, JSON-able.
        score: What the rule compares with its threshold; lower is worse. The lowest one is kept with the trial.
    """

    flagged: bool
    reason: str
    p_top: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


def too_few(peers: int, needed: int, rung: Rung) -> str:
    """The reason of a rule that has too few trials to compare with."""
    return f"{peers} other trials at {rung.name} ({needed} needed)"


@dataclass(frozen=True)
class StopDecision:
    """What was decided about a trial at a rung; the ledger's ``decision`` row.

    Attributes:
        trial_id: The trial's name.
        step: Optimizer steps it had done.
        samples_seen: Its value of the scheduler's time attribute.
        rung: Nominal fraction of the budget; None for count rungs, the divergence check and a user's stop.
        action: ``continue``; ``stop`` (by the rule or a user); ``divergence_check`` (stopped because it diverged);
            ``audit`` (flagged, but trained to completion so that the rule's errors can be counted); ``pause`` (flagged;
            it may resume once the search has nothing more to propose).
        rule: The rule that decided.
        reason: One sentence.
        p_top: See `RuleDecision`.
        evidence: Numbers behind it, JSON-able; ``objective_step`` is the step at which the objective was computed.
        score: See `RuleDecision`.
    """

    trial_id: str
    step: int
    samples_seen: float
    rung: float | None
    action: Action
    rule: str
    reason: str
    p_top: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    score: float | None = None

    @property
    def ends_trial(self) -> bool:
        """Whether the trial must not train on now."""
        return self.action in ("stop", "pause", "divergence_check")

    def to_row(self) -> dict[str, Any]:
        """The fields of the ledger's ``decision`` row (without ``kind``)."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> StopDecision:
        """The decision a ledger row holds; other keys of the row are ignored."""
        return cls(**{k: row[k] for k in cls.__dataclass_fields__ if k in row})
