"""Rules by name: the one list that the scheduler, the pruner, the replay and the spec read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sweepft.rules.asha import AshaRule
from sweepft.rules.base import NoRule, Rule
from sweepft.rules.calibrated import CalibratedRule
from sweepft.rules.history import HistoryLike, read_history
from sweepft.rules.median import MedianRule
from sweepft.rules.recipe import RecipeRule

__all__ = ["RULES", "make_rule"]

RULES: Final = ("none", "median", "recipe", "asha", "calibrated")


def make_rule(
    name: str,
    *,
    min_peers: int = 3,
    batch_key: str = "batch_size",
    eta: float = 3.0,
    good: float = 0.2,
    false_stop: float = 0.10,
    covariates: Sequence[str] = (),
    audit: float = 0.0,
    history: HistoryLike = None,
) -> Rule:
    """The rule of this name; settings that it does not have are ignored.

    Args:
        name: One of `RULES`.
        min_peers: Other trials needed at a window to judge one (asha: always one).
        batch_key: Config key of the batch size.
        eta: Reduction factor of ``asha``.
        good: See `CalibratedRule`, as all that follows.
        false_stop: See there.
        covariates: See there.
        audit: See there.
        history: What earlier sweeps taught; the rule takes its calibration, the referee its audits.

    Raises:
        ValueError: Unknown name, or a setting or history that does not fit.
    """
    if name == "none":
        return NoRule()
    if name == "median":
        return MedianRule(min_peers)
    if name == "recipe":
        return RecipeRule(min_peers, batch_key)
    if name == "asha":
        return AshaRule(eta)
    if name == "calibrated":
        return CalibratedRule(
            good=good,
            false_stop=false_stop,
            min_peers=min_peers,
            covariates=covariates,
            audit=audit,
            calibration=read_history(history, good=good, false_stop=false_stop).calibration,
            batch_key=batch_key,
        )
    raise ValueError(f"rule: one of {', '.join(RULES)} is needed (got {name!r})")
