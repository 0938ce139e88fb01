"""Calibrates the calibrated rule on prior sweeps: the level that bounds its false stops in a new sweep like them.

Conformal risk control (Angelopoulos et al., 2022): the rule is replayed over the prior sweeps at rising levels, and the
largest one is taken at which (n * mean false stops + 1) / (n + 1) stays within the bound. A new sweep, drawn as those
were, then loses no more than that share of its top trials on average. Sweeps that share experiments, data or code are
not drawn one by one: they are one *cluster*, and clusters are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sweepft.early_stopping import CalibratedRule, Calibration, EarlyStopper
from sweepft.early_stopping.rungs import RungSpec
from sweepft.errors import ReplayError
from sweepft.replay.clock import replay_study
from sweepft.replay.curves import Study, count_reasons
from sweepft.replay.policies import EarlyStopperPolicy
from sweepft.replay.score import top_runs

LEVELS: Final = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25, 0.30, 0.40, 0.50)
_MAX_UNKNOWN: Final = 0.2  # share of a sweep's runs without a known result


def calibrate(
    studies: Sequence[Study],
    *,
    max_false_stop_rate: float = 0.10,
    top_fraction: float = 0.2,
    rungs: Sequence[RungSpec] = (0.05, 0.10, 0.25, 0.50),
    min_steps: int = 0,
    slots: int = 4,
    orders: int = 3,
    group: int = 24,
    seed: int = 0,
    cluster: Callable[[Study], str] = lambda study: study.name,
) -> Calibration | None:
    """The calibration that prior sweeps allow; None when there are fewer than 1 / max_false_stop_rate - 1 clusters.

    Args:
        studies: Prior sweeps, all runs to the end, comparable with the new sweep as far as known.
        max_false_stop_rate: The bound on the share of top trials that are stopped.
        top_fraction: The best share of the trials.
        rungs: Those of the new sweep.
        min_steps: As in the new sweep.
        slots: As in the new sweep.
        orders: Random orders per sweep.
        group: Runs per replay; larger sweeps are sampled.
        seed: Of orders and samples.
        cluster: Names the cluster of a sweep; by default each is one of its own.

    Raises:
        ReplayError: A sweep has too many runs whose result is not known: its top trials may be among them.
    """
    for study in studies:
        _check_ends(study)
    replays = _Replays(top_fraction, rungs, min_steps, slots, orders, group, seed)
    members: dict[str, list[Study]] = {}
    for study in studies:
        members.setdefault(cluster(study), []).append(study)

    def lost(level: float) -> list[float]:
        draft = Calibration(level, max_false_stop_rate, len(members))
        return [float(np.mean([replays.false_stop_rate(s, draft) for s in own])) for own in members.values()]

    level = allowed_level(lost, len(members), max_false_stop_rate)
    return None if level is None else Calibration(level, max_false_stop_rate, len(members))


def allowed_level(
    lost: Callable[[float], Sequence[float]], clusters: int, max_false_stop_rate: float
) -> float | None:
    """The largest of `LEVELS` that conformal risk control allows; 0 where the smallest is too large.

    Args:
        lost: (clusters,) the share of top trials lost in each at a level.
        clusters: Their number.
        max_false_stop_rate: The bound on the mean in a new one.

    Returns:
        The level; None where there are fewer than 1 / max_false_stop_rate - 1 clusters.
    """
    if clusters + 1 < 1.0 / max_false_stop_rate - 1e-9:
        return None
    level, worst = 0.0, 0.0
    for candidate in LEVELS:
        worst = max(worst, float(np.mean(lost(candidate))))
        if (clusters * worst + 1.0) / (clusters + 1.0) > max_false_stop_rate + 1e-12:
            break
        level = candidate
    return level


def _check_ends(study: Study) -> None:
    """A certificate counts top trials that were stopped, so the top must be known."""
    total = len(study.runs) + study.left_out
    if study.known_ends >= 2 and study.left_out <= _MAX_UNKNOWN * total:
        return
    unknown = f"{study.left_out} of its {total} runs have no known result" if study.left_out else ""
    unknown = f"{unknown} ({count_reasons(study.omitted)})" if unknown else "all but one of its runs diverged"
    raise ReplayError(
        f"--calibrate: {study.name}: {unknown}, so that its best runs are not known; at most"
        f" {100 * _MAX_UNKNOWN:.0f}% may be missing\n  calibrate on sweeps whose runs were trained to their end",
        key="replay.unknown_ends",
    )


@dataclass(frozen=True)
class _Replays:
    """How prior sweeps are replayed; see `calibrate`."""

    top_fraction: float
    rungs: Sequence[RungSpec]
    min_steps: int
    slots: int
    orders: int
    group: int
    seed: int

    def false_stop_rate(self, study: Study, calibration: Calibration) -> float:
        """Mean share of the top runs that the rule stops."""
        lost = []
        for order in range(self.orders):
            picked = study.sample(self.group, self.seed + order)
            rule = CalibratedRule(
                top_fraction=self.top_fraction,
                max_false_stop_rate=calibration.max_false_stop_rate,
                calibration=calibration,
            )
            stopper = EarlyStopper(
                rule=rule,
                rungs=self.rungs,
                budget=study.budget,
                mode=study.mode,
                min_steps=self.min_steps,
                divergence_check=False,
            )
            policy = EarlyStopperPolicy(stopper)
            outcome = replay_study(picked, policy, slots=self.slots, order=range(len(picked.runs)))
            top = top_runs(picked, self.top_fraction)
            lost.append(sum(outcome.runs[r].status != "completed" for r in top) / max(1, len(top)))
        return float(np.mean(lost))
