"""Rules by name: the one list that the scheduler, the pruner, the replay and the spec read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sweepft.rules.asha import AshaRule
from sweepft.rules.base import NoRule, Rule
from sweepft.rules.calibrated import CalibratedRule, Calibration
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
    history: Calibration | Mapping[str, Any] | str | Path | None = None,
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
        history: A `Calibration`, its dict, or the JSON file that ``sweepft replay --calibrate`` wrote.

    Raises:
        ValueError: Unknown name.
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
            calibration=_read_history(history),
            batch_key=batch_key,
        )
    raise ValueError(f"rule: one of {', '.join(RULES)} is needed (got {name!r})")


def _read_history(history: Calibration | Mapping[str, Any] | str | Path | None) -> Calibration | None:
    if history is None or isinstance(history, Calibration):
        return history
    try:
        data = history if isinstance(history, Mapping) else json.loads(Path(history).read_text())
        return Calibration.from_dict(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"history: not a calibration (got {str(history)[:120]!r}: {error})\n"
            "  make one with: sweepft replay SOURCE --calibrate FILE"
        ) from error
