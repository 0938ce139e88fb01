"""What a replay was worth: compute saved, best run kept, regret, top runs lost; intervals over studies.

All scores compare with the recorded results of all runs, stopped or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sweepft.early_stopping.trial import configuration
from sweepft.replay.clock import Outcome
from sweepft.replay.curves import Study


@dataclass(frozen=True)
class Score:
    """One replay, or the mean of several.

    Attributes:
        saved: Share of the recorded seconds of all runs that was not spent.
        best_kept: 1 when the best run reached its end.
        best_kept_within_noise: 1 when a run within the noise of the best did.
        false_stop: Share of the top runs that did not reach their end.
        regret: Best objective minus that of the best run kept, in the objective's unit, >= 0.
        regret_scaled: The same, divided by the distance between the best and the median run.
        time_to_best: Clock time at which the chosen run ended, as a share of the same sweep without stops.
    """

    saved: float
    best_kept: float
    best_kept_within_noise: float
    false_stop: float
    regret: float
    regret_scaled: float
    time_to_best: float


def top_runs(study: Study, share: float, noise: float = 0.0) -> set[str]:
    """The runs in the top share by final objective, and those within the noise of its edge."""
    values = study.values
    count = max(1, math.ceil(share * len(values) - 1e-9))
    edge = np.sort(values)[::-1][count - 1]
    return {r.run_id for r, v in zip(study.runs, values, strict=True) if v >= edge - noise and v > -math.inf}


def repeat_noise(study: Study) -> float:
    """Standard deviation of the final objective among runs of one configuration with other seeds; 0 where unknown.

    Two repeats tell little: at least three configurations of two runs are needed, or one of three.
    """
    groups: dict[str, list[float]] = {}
    for run, value in zip(study.runs, study.values.tolist(), strict=True):
        kind = configuration(run.params) if run.params_known else None
        if value > -math.inf and kind is not None:
            groups.setdefault(kind, []).append(value)
    repeats = [g for g in groups.values() if len(g) >= 2]
    if len(repeats) < 3 and max((len(g) for g in repeats), default=0) < 3:
        return 0.0
    # The median over configurations: one unstable configuration must not set the noise of the others.
    return float(np.median([np.std(g, ddof=1) / _median_of_std(len(g)) for g in repeats]))


def _median_of_std(runs: int) -> float:
    """Median of the standard deviation of so many standard normal values (Wilson and Hilferty)."""
    free = runs - 1
    return math.sqrt((1 - 2 / (9 * free)) ** 3)


def score_outcome(
    study: Study, outcome: Outcome, *, full_makespan: float, top_fraction: float = 0.2, noise: float = 0.0
) -> Score:
    """Score one replay.

    Args:
        study: The group that was replayed.
        outcome: What became of its runs.
        full_makespan: The same sweep's time without any stop.
        top_fraction: The best share of the runs.
        noise: Objectives closer than this are equal.
    """
    values = dict(zip((r.run_id for r in study.runs), study.values.tolist(), strict=True))
    total = sum(r.cost for r in study.runs)
    spent = sum(o.spent for o in outcome.runs.values())
    done = {n: o for n, o in outcome.runs.items() if o.status == "completed"}
    best = max(values.values())
    kept = max((values[n] for n in done), default=-math.inf)
    chosen = max(done, key=lambda n: values[n], default=None)
    top = top_runs(study, top_fraction)
    finite = [v for v in values.values() if v > -math.inf]
    spread = best - float(np.median(finite)) if finite else 0.0
    regret = best - kept if kept > -math.inf else best - min(finite, default=best)
    ended = done[chosen].finished_at if chosen is not None else None
    return Score(
        saved=1.0 - spent / total,
        best_kept=float(kept >= best),
        best_kept_within_noise=float(kept >= best - noise),
        false_stop=sum(n not in done for n in top) / len(top) if top else 0.0,
        regret=regret,
        regret_scaled=min(1.0, regret / spread) if spread > 0 else 0.0,
        time_to_best=(ended if ended is not None else outcome.makespan) / full_makespan,
    )


def mean_scores(scores: Sequence[Score]) -> Score:
    """The mean of each field."""
    rows = [asdict(s) for s in scores]
    return Score(**{k: float(np.mean([r[k] for r in rows])) for k in rows[0]})


def bootstrap(
    values: Sequence[float], *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values``, one per study: studies are what is sampled."""
    data = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(0, len(data), (draws, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
