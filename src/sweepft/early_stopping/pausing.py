"""Which parked trials come back: those that are worth their price.

A parked trial was condemned, and holds no slot. When the search has nothing more to propose it may train on, if it is
at least as likely, for each unit of compute that it takes, to end among the good ones as a new trial would be: a new
one costs a whole budget and is good with probability ``good``, so a trial that costs a share c must have ``c * good``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort


@dataclass(frozen=True)
class Prospect:
    """What a parked trial promises, and what it costs.

    Attributes:
        trial_id: Its name.
        p_good: Probability of ending in the best ``good`` share, as estimated now.
        price: Share of a budget that it costs to bring it to its end.
        needed: The probability that its price asks for.
    """

    trial_id: str
    p_good: float
    price: float
    needed: float

    @property
    def worth(self) -> bool:
        """Whether it may come back."""
        return self.p_good >= self.needed

    @property
    def reason(self) -> str:
        """Why it may come back, or may not, as a sentence."""
        word = "is enough for" if self.worth else "is below"
        return (
            f"its probability {self.p_good:.3f} of being good {word} the {self.needed:.3f} that"
            f" {100 * self.price:.0f}% of a budget must promise"
        )


def prospects(
    cohort: Cohort, model: CalibratedRule, budget: float, *, from_scratch: bool = False
) -> list[Prospect]:
    """All parked trials, the likeliest first; ties in order of arrival.

    Args:
        cohort: The sweep.
        model: Estimates probabilities, whichever rule parked the trials.
        budget: A full trial, in units of the time attribute.
        from_scratch: Whether no state is kept, so that a trial must be trained again up to where it was.
    """
    parked = [t for t in cohort.trials.values() if t.status == "parked"]
    chances = model.chances(cohort, parked)
    found = []
    for trial in parked:
        price = 1.0 if from_scratch else max(0.0, 1.0 - trial.curve.last_progress / budget)
        found.append(Prospect(trial.trial_id, chances[trial.trial_id], price, price * model.good))
    return sorted(found, key=lambda p: -p.p_good)
