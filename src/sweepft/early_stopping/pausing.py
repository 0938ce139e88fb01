"""Which parked trials come back: those that are worth their price.

A parked trial was condemned, and holds no slot. When the search has nothing more to propose it may train on, if it is
at least as likely, for each unit of compute that it takes, to end among the good ones as a new trial would be: a new
one costs a whole budget and is good with probability ``top_fraction``, so a trial that costs a share c must have ``c * good``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort


@dataclass(frozen=True)
class PausedTrial:
    """What a parked trial promises, and what it costs.

    Attributes:
        trial_id: Its name.
        p_top: Probability of ending in the best ``top_fraction`` share, as estimated now.
        price: Share of a budget that it costs to bring it to its end.
        needed: The probability that its price asks for.
    """

    trial_id: str
    p_top: float
    price: float
    needed: float

    @property
    def worth(self) -> bool:
        """Whether it may come back."""
        return self.p_top >= self.needed

    @property
    def reason(self) -> str:
        """Why it may come back, or may not, as a sentence."""
        word = "is enough for" if self.worth else "is below"
        return (
            f"its probability {self.p_top:.3f} of being good {word} the {self.needed:.3f} that"
            f" {100 * self.price:.0f}% of a budget must promise"
        )


def paused_trials(
    cohort: Cohort, model: CalibratedRule, budget: float, *, from_scratch: bool = False
) -> list[PausedTrial]:
    """All parked trials, the likeliest first; ties in order of arrival.

    Args:
        cohort: The sweep.
        model: Estimates probabilities, whichever rule parked the trials.
        budget: A full trial, in units of the time attribute.
        from_scratch: Whether no state is kept, so that a trial must be trained again up to where it was.
    """
    paused = [t for t in cohort.trials.values() if t.status == "paused"]
    chances = model.chances(cohort, paused)
    found = []
    for trial in paused:
        price = 1.0 if from_scratch else max(0.0, 1.0 - trial.curve.last_progress / budget)
        found.append(PausedTrial(trial.trial_id, chances[trial.trial_id], price, price * model.top_fraction))
    return sorted(found, key=lambda p: -p.p_top)
