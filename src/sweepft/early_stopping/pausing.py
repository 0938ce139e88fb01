"""Which paused trials resume: those that are worth their price.

A paused trial was flagged, and holds no slot. When the search has nothing more to propose it may resume, if its chance
of the top fraction is, per unit of compute, at least that of a new trial. A new trial costs a whole budget and ends in
the top fraction with probability ``top_fraction``; so a trial at a share c of a budget needs ``c * top_fraction``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort


@dataclass(frozen=True)
class PausedTrial:
    """A paused trial's chance, and its price.

    Attributes:
        trial_id: Its name.
        p_top: Probability of ending in the top fraction, as estimated now.
        price: Share of a budget that it takes to complete it.
        needed: The probability that this price asks for.
    """

    trial_id: str
    p_top: float
    price: float
    needed: float

    @property
    def worth(self) -> bool:
        """Whether it may resume."""
        return self.p_top >= self.needed

    @property
    def reason(self) -> str:
        """Why it may resume, or may not."""
        word = ">=" if self.worth else "<"
        return f"P(top) = {self.p_top:.3f} {word} {self.needed:.3f} needed for {100 * self.price:.0f}% of a budget"


def paused_trials(
    cohort: Cohort, model: CalibratedRule, budget: float, *, from_scratch: bool = False
) -> list[PausedTrial]:
    """All paused trials, the likeliest first; ties in order of arrival.

    Args:
        cohort: The sweep.
        model: Estimates probabilities, whichever rule paused the trials.
        budget: A full trial, in units of the time attribute.
        from_scratch: Whether no checkpoint is kept, so that a trial must be trained again from its start.
    """
    paused = [t for t in cohort.trials.values() if t.status == "paused"]
    chances = model.chances(cohort, paused)
    found = []
    for trial in paused:
        price = 1.0 if from_scratch else max(0.0, 1.0 - trial.curve.last_progress / budget)
        found.append(PausedTrial(trial.trial_id, chances[trial.trial_id], price, price * model.top_fraction))
    return sorted(found, key=lambda p: -p.p_top)
