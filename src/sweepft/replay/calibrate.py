"""Earlier sweeps as history: a level at which the calibrated rule may be trusted in a new sweep like them.

Conformal risk control (Angelopoulos et al., 2022): the rule is replayed over the earlier sweeps at rising levels, and
the largest one is taken at which (n * mean false stops + 1) / (n + 1) stays within the bound. A new sweep, drawn as
those were, then loses no more than that share of its good trials on average. With twenty sweeps or more, weights and
correlations are learned too, and each sweep is judged with those learned from the other half (so the bound is, as in
cross-validation, that of a rule learned from half as much).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from sweepft.early_stopping import CalibratedRule, Calibration, EarlyStopper, parse_rungs
from sweepft.early_stopping.rungs import RungSpec
from sweepft.early_stopping.signal_model import DEFAULT_WEIGHTS
from sweepft.early_stopping.signals import signal_table
from sweepft.early_stopping.statistics import fit_weights, rank_correlation
from sweepft.replay.clock import replay_study
from sweepft.replay.curves import Floats, Study
from sweepft.replay.policies import EarlyStopperPolicy
from sweepft.replay.score import top_runs

LEVELS: Final = (0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25, 0.30, 0.40, 0.50)


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
    """What earlier sweeps allow; None when they are too few (fewer than 1 / false_stop - 1).

    Args:
        studies: Earlier sweeps, all runs to the end, comparable to the new one as far as you can tell.
        false_stop: The bound on the share of good trials that are condemned.
        good: Share of trials that count as good.
        rungs: Those of the new sweep.
        min_steps: As in the new sweep.
        slots: As in the new sweep.
        orders: Random orders a sweep.
        group: Runs a replay; larger sweeps are sampled.
        seed: Of orders and samples.
    """
    if len(studies) + 1 < 1.0 / max_false_stop_rate:
        return None
    ranked = sorted(studies, key=lambda s: s.name)
    halves = [ranked[::2], ranked[1::2]]
    if len(halves[1]) < _LEARN_FROM:
        folds = [(Calibration(0.0, max_false_stop_rate, len(studies)), ranked)]
        weights: tuple[float, ...] = ()
        rho: tuple[tuple[float, float], ...] = ()
    else:
        folds = []
        for learn, policy in (halves, halves[::-1]):
            learned = _learn(learn, rungs, min_steps, group, seed)
            folds.append(
                (Calibration(0.0, max_false_stop_rate, len(studies), learned[1], learned[0]), policy)
            )
        weights, rho = _learn(ranked, rungs, min_steps, group, seed)
    level, worst, n = 0.0, 0.0, len(studies)
    for candidate in LEVELS:
        risks = [
            _risk(
                s, replace(draft, level=candidate), top_fraction, rungs, min_steps, slots, orders, group, seed
            )
            for draft, policy in folds
            for s in policy
        ]
        worst = max(worst, float(np.mean(risks)))
        if (n * worst + 1.0) / (n + 1.0) > max_false_stop_rate:
            break
        level = candidate
    return Calibration(level, max_false_stop_rate, len(studies), rho, weights)


def _risk(
    study: Study,
    draft: Calibration,
    top_fraction: float,
    rungs: Sequence[RungSpec],
    min_steps: int,
    slots: int,
    orders: int,
    group: int,
    seed: int,
) -> float:
    """Mean share of the good runs that the rule condemns."""
    lost = []
    for order in range(orders):
        picked = sample(study, group, seed + order)
        rule = CalibratedRule(
            top_fraction=top_fraction, max_false_stop_rate=draft.max_false_stop_rate, calibration=draft
        )
        early_stopper = EarlyStopper(
            rule=rule,
            rungs=rungs,
            budget=picked.budget,
            mode=picked.mode,
            min_steps=min_steps,
            guards=False,
        )
        outcome = replay_study(
            picked, EarlyStopperPolicy(early_stopper), slots=slots, order=range(len(picked.runs))
        )
        truly = top_runs(picked, top_fraction)
        lost.append(sum(outcome.runs[r].status != "completed" for r in truly) / max(1, len(truly)))
    return float(np.mean(lost))


def sample(study: Study, group: int, seed: int) -> Study:
    """So many runs of a study, in a random order."""
    rng = np.random.default_rng(seed)
    return study.subset(rng.permutation(len(study.runs))[:group].tolist())


def _learn(
    studies: Sequence[Study], rungs: Sequence[RungSpec], min_steps: int, group: int, seed: int
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Weights of the signals over all windows, and the correlation at each fraction window; empty without sweeps."""
    if not studies:
        return (), ()
    tables: dict[float, list[tuple[Floats, Floats]]] = {}
    for study in studies:
        picked = sample(study, group, seed)
        early_stopper = EarlyStopper(
            rule=None,
            rungs=rungs,
            budget=picked.budget,
            mode=picked.mode,
            min_steps=min_steps,
            guards=False,
        )
        replay_study(
            picked, EarlyStopperPolicy(early_stopper), slots=len(picked.runs), order=range(len(picked.runs))
        )
        values = dict(zip((r.run_id for r in picked.runs), picked.values.tolist(), strict=True))
        for rung in parse_rungs(rungs):
            names = [n for n in early_stopper.cohort.names_at(rung) if values[n] > -math.inf]
            if rung.fraction is None or len(names) < 4:
                continue
            scores = signal_table(early_stopper.cohort, rung, names).scores
            ends = np.array([values[n] for n in names])
            tables.setdefault(rung.fraction, []).append((scores, ends))
    fits = [
        fit_weights(scores, ends, np.array(DEFAULT_WEIGHTS), strength=1.0)
        for pairs in tables.values()
        for scores, ends in pairs
    ]
    if not fits:
        return (), ()
    weights = np.mean(fits, axis=0)
    weights = weights / max(1e-9, float(np.abs(weights).max()))
    rho = tuple(
        (fraction, max(0.02, float(np.mean([rank_correlation(s @ weights, e) for s, e in pairs]))))
        for fraction, pairs in sorted(tables.items())
    )
    return tuple(float(w) for w in weights), rho
