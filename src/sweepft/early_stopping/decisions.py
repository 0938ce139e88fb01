"""What a rule says (`RuleDecision`) and what became of it (`StopDecision`).

A rule only ever says *condemned* or not; the referee turns that into continue, stop, park, audit or guard. Both
carry the evidence and a sentence, so that a report can say why each trial ended.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Action = Literal["continue", "stop", "pause", "audit", "divergence_check"]


BY_USER = "user"


"""The rule of a verdict that no rule gave: somebody asked for it while the sweep ran."""


@dataclass(frozen=True)
class RuleDecision:
    """A rule's opinion of one trial at one window.

    Attributes:
        condemned: The rule holds that this trial will not be among the good ones.
        reason: A sentence a person can read.
        p_top: Estimated probability that the trial is among the good ones, where the rule has one.
        evidence: Numbers behind it, JSON-able.
        certified: The rule bounds its false stops for this judgement (else it is a heuristic).
        score: What the rule compares with its threshold; lower is worse. The lowest one is kept with the trial.
    """

    flagged: bool
    reason: str
    p_top: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    certified: bool = False
    score: float | None = None


@dataclass(frozen=True)
class StopDecision:
    """What was decided about a trial at a window; the ledger's ``decision`` row.

    Attributes:
        trial_id: The trial's name.
        step: Optimizer steps it had done.
        samples_seen: Its value of the scheduler's time attribute.
        window: Nominal fraction of the budget; None for count windows, guards and what a person asked for.
        action: ``continue``; ``stop`` (the rule's); ``guard`` (stopped because it diverged); ``audit``
            (condemned, but runs on so that the rule's mistakes can be counted); ``pause`` (condemned, but may come
            back once the search has nothing more to propose).
        rule: The rule that spoke.
        reason: A sentence a person can read.
        p_top: See `RuleDecision`.
        evidence: JSON-able numbers behind it.
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
        """The verdict a ledger row holds; other keys of the row are ignored."""
        return cls(**{k: row[k] for k in cls.__dataclass_fields__ if k in row})
