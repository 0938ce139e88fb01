"""Made-up studies with a known truth: a run's quality shows early, through noise."""

from __future__ import annotations

import math

import numpy as np

from sweepft.replay.curves import Run, Study


def make_study(
    seed: int = 0,
    runs: int = 24,
    points: int = 40,
    noise: float = 0.3,
    name: str = "made-up",
    bad: bool = False,
) -> Study:
    """Losses fall from 3 towards 1 + quality; the objective is loss plus noise; lower is better.

    Args:
        seed: Of qualities and noise.
        runs: How many.
        points: Rows a run; budget 100.
        noise: Of what is seen early, in units of the spread of qualities.
        name: Of the study.
        bad: One run turns NaN half-way.
    """
    rng = np.random.default_rng(seed)
    out = []
    for i in range(runs):
        quality = float(rng.normal())
        progress = np.arange(1, points + 1) * 100.0 / points
        wobble = noise * float(rng.normal()) * (1 - progress / 100)
        loss = 1.5 + 0.1 * (quality + wobble) + 1.5 * np.exp(-progress / 10)
        metric = loss + 0.01 * noise * rng.normal(size=points)
        norm = np.full(points, math.exp(0.2 * rng.normal()))
        bad_row = None
        if bad and i == runs - 1:
            loss[points // 2 :] = math.nan
            metric[points // 2 :] = math.nan
            bad_row = points // 2
        final = math.nan if bad_row is not None else float(metric[-1])
        params = {"learning_rate": float(np.exp(rng.normal())), "batch_size": 8}
        out.append(Run(f"r{i}", params, progress, progress, progress, loss, norm, metric, final, bad_row))
    return Study(name, "made-up", "min", 100.0, out)
