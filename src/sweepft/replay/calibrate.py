"""Calibrates the calibrated rule on prior sweeps: the level that bounds its false stops in a new sweep like them.

Conformal risk control (Angelopoulos et al., 2022): the rule is replayed over the prior sweeps at rising levels, and the
largest one is taken at which (n * mean false stops + 1) / (n + 1) stays within the bound. A new sweep, drawn as those
were, then loses no more than that share of its top trials on average. With twenty sweeps or more, weights and
correlations are learned too, and each sweep is replayed with those learned from the other half (so the bound is, as in
cross-validation, that of a rule learned from half as much).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sweepft.early_stopping import CalibratedRule, Calibration, EarlyStopper, Rule, parse_rungs
from sweepft.early_stopping.rungs import RungSpec
from sweepft.early_stopping.signal_model import DEFAULT_WEIGHTS
from sweepft.early_stopping.signals import signal_table
from sweepft.early_stopping.statistics import fit_weights, rank_correlation
from sweepft.errors import ReplayError
from sweepft.replay.clock import Outcome, replay_study
from sweepft.replay.curves import Floats, Study, count_reasons
from sweepft.replay.policies import EarlyStopperPolicy
from sweepft.replay.score import top_runs

LEVELS: Final = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25, 0.30, 0.40, 0.50)
_MAX_UNKNOWN: Final = 0.2  # share of a sweep's runs without a known result
_LEARN_FROM: Final = 10  # sweeps, at least, in each half, before weights are learned too


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
) -> Calibration | None:
    """The calibration that prior sweeps allow; None when they are too few (fewer than 1 / max_false_stop_rate - 1).

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

    Raises:
        ReplayError: A sweep has too many runs whose result is not known: its top trials may be among them.
    """
    if len(studies) + 1 < 1.0 / max_false_stop_rate:
        return None
    for study in studies:
        _check_ends(study)
    replays = _Replays(top_fraction, rungs, min_steps, slots, orders, group, seed)
    ranked = sorted(studies, key=lambda s: s.name)
    halves = [ranked[::2], ranked[1::2]]
    draft = Calibration(0.0, max_false_stop_rate, len(studies))
    if len(halves[1]) < _LEARN_FROM:
        folds = [(draft, ranked)]
    else:
        folds = [(replays.learn(learn, draft), test) for learn, test in (halves, halves[::-1])]
        draft = replays.learn(ranked, draft)
    level, worst, n = 0.0, 0.0, len(studies)
    for candidate in LEVELS:
        risks = [
            replays.false_stop_rate(study, replace(fold, level=candidate))
            for fold, test in folds
            for study in test
        ]
        worst = max(worst, float(np.mean(risks)))
        if (n * worst + 1.0) / (n + 1.0) > max_false_stop_rate:
            break
        level = candidate
    return replace(draft, level=level)


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

    def _replay(self, study: Study, rule: Rule | None, slots: int) -> tuple[EarlyStopper, Outcome]:
        stopper = EarlyStopper(
            rule=rule,
            rungs=self.rungs,
            budget=study.budget,
            mode=study.mode,
            min_steps=self.min_steps,
            divergence_check=False,
        )
        order = range(len(study.runs))
        return stopper, replay_study(study, EarlyStopperPolicy(stopper), slots=slots, order=order)

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
            _, outcome = self._replay(picked, rule, self.slots)
            top = top_runs(picked, self.top_fraction)
            lost.append(sum(outcome.runs[r].status != "completed" for r in top) / max(1, len(top)))
        return float(np.mean(lost))

    def learn(self, studies: Sequence[Study], draft: Calibration) -> Calibration:
        """The draft with weights of the signals over all rungs, and the correlation at each fraction rung."""
        tables: dict[float, list[tuple[Floats, Floats]]] = {}
        for study in studies:
            picked = study.sample(self.group, self.seed)
            stopper, _ = self._replay(picked, None, slots=len(picked.runs))
            values = dict(zip((r.run_id for r in picked.runs), picked.values.tolist(), strict=True))
            for rung in parse_rungs(self.rungs):
                names = [n for n in stopper.cohort.names_at(rung) if values[n] > -math.inf]
                if rung.fraction is None or len(names) < 4:
                    continue
                scores = signal_table(stopper.cohort, rung, names).scores
                results = np.array([values[n] for n in names])
                tables.setdefault(rung.fraction, []).append((scores, results))
        fits = [
            fit_weights(scores, results, np.array(DEFAULT_WEIGHTS), strength=1.0)
            for pairs in tables.values()
            for scores, results in pairs
        ]
        if not fits:
            return draft
        weights = np.mean(fits, axis=0)
        weights = weights / max(1e-9, float(np.abs(weights).max()))
        rho = tuple(
            (fraction, max(0.02, float(np.mean([rank_correlation(s @ weights, r) for s, r in pairs]))))
            for fraction, pairs in sorted(tables.items())
        )
        return replace(draft, rho=rho, weights=tuple(float(w) for w in weights))
