"""Is the report's gain over the baseline right? Measured on the seed noise of the study.

``python -m benchmarks.gain_coverage`` writes ``benchmarks/results/gain-coverage.md``. Of the study's configurations
that were trained with two seeds, the mean is taken as the true loss, and the differences of the pairs as the noise. A
sweep draws some of these configurations, gives each one run with fresh noise, takes the first as the baseline and the
best run as the winner, and trains both again with new seeds, as `evaluate.replicates` does. The interval is that of the
report (`sweepft.report.gain.seed_difference`). Without replicates of the two, the report's interval is that of two
single runs (`sweepft.report.gain.single_run_error`), measured in the second table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.study.effects import runs_of
from numpy.typing import NDArray

from sweepft.report.gain import seed_difference, single_run_error

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "data" / "study.parquet"
RESULT = ROOT / "benchmarks" / "results" / "gain-coverage.md"
CONFIG = ["lr", "batch_size", "warmup", "schedule", "data_order"]
SWEEPS = 2000
TRIALS = 12
SAMPLING = 0.01
"""Standard error of a difference over the validation samples, in nats."""


def configurations(runs: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True losses of the configurations with two seeds, and deviations of single runs from them."""
    pairs = [group["in_domain"].to_numpy() for _, group in runs.groupby(CONFIG) if len(group) == 2]
    losses = np.array(pairs, dtype=np.float64)
    return losses.mean(axis=1), (losses[:, 0] - losses[:, 1]) / np.sqrt(2)


def measure(
    means: NDArray[np.float64], noise: NDArray[np.float64], seeds: int, near: bool, rng: np.random.Generator
) -> dict[str, float]:
    """Coverage of the interval, and how far the gain is off, over many sweeps.

    Args:
        means: True loss of each configuration.
        noise: Deviations to draw from, with either sign.
        seeds: New seeds of winner and baseline.
        near: Whether only configurations with a true loss within 0.1 nats of the best are drawn, where noise matters.
        rng: Random numbers.
    """

    def draw(size: int) -> NDArray[np.float64]:
        return rng.choice(noise, size) * rng.choice([-1.0, 1.0], size)

    pool = means[means <= means.min() + 0.1] if near else means
    covered = claimed = wrong = 0
    single, replicated = [], []
    for _ in range(SWEEPS):
        chosen = rng.choice(pool, TRIALS, replace=len(pool) < TRIALS)
        first_run = chosen + draw(TRIALS)
        winner = int(np.argmin(first_run))
        true = chosen[0] - chosen[winner]
        single.append(first_run[0] - first_run[winner] - true)
        again = [chosen[i] + draw(seeds) for i in (0, winner)]
        value, _, width = seed_difference(again[0].tolist(), again[1].tolist())
        replicated.append(value - true)
        if width is not None:
            covered += abs(value - true) <= width
            claimed += value - width > 0
            wrong += value - width > 0 and true <= 0
    return {
        "covered": covered / SWEEPS,
        "claimed": claimed / SWEEPS,
        "wrong": wrong / SWEEPS,
        "single": float(np.mean(single)),
        "replicated": float(np.mean(replicated)),
    }


def measure_single(
    means: NDArray[np.float64], noise: NDArray[np.float64], groups: int, near: bool, rng: np.random.Generator
) -> dict[str, float]:
    """Coverage of the interval where winner and baseline have one run each.

    Args:
        means, noise, near, rng: As in `measure`.
        groups: Other configurations with three seeds each, by which seed noise is known; 0 for none.
    """
    pool = means[means <= means.min() + 0.1] if near else means
    covered, widths, claimed, wrong, sweeps = 0, [], 0, 0, 0
    for _ in range(SWEEPS):
        chosen = rng.choice(pool, TRIALS, replace=len(pool) < TRIALS)
        runs = chosen + rng.choice(noise, TRIALS) * rng.choice([-1.0, 1.0], TRIALS)
        winner = int(np.argmin(runs))
        if not winner:
            continue
        true = chosen[0] - chosen[winner]
        value = runs[0] - runs[winner] + rng.normal(0, SAMPLING)
        repeats = rng.choice(noise, (groups, 3)) * rng.choice([-1.0, 1.0], (groups, 3))
        pooled = float(np.sqrt(repeats.var(axis=1, ddof=1).mean())) if groups else 0.0
        known = {"value": pooled, "freedom": 2 * groups} if groups else None
        _, width = single_run_error(SAMPLING, known, 0.025 / (TRIALS - 1))
        assert width is not None
        sweeps += 1
        covered += abs(value - true) <= width
        claimed += value - width > 0
        wrong += value - width > 0 and true <= 0
        widths.append(width)
    return {
        "covered": covered / sweeps,
        "claimed": claimed / sweeps,
        "wrong": wrong / sweeps,
        "width": float(np.median(widths)),
    }


def page() -> str:
    """The result as Markdown."""
    frame = pd.read_parquet(TABLE)
    means, noise = configurations(runs_of(frame[~frame["study"].str.contains("phased")]))
    rng = np.random.default_rng(0)
    rows = []
    for near in (False, True):
        for seeds in (2, 3, 5):
            found = measure(means, noise, seeds, near, rng)
            cells = [
                "within 0.1 nats of the best" if near else "all",
                str(seeds),
                *(f"{found[key]:.1%}" for key in ("covered", "claimed", "wrong")),
                *(f"{found[key]:+.4f}" for key in ("single", "replicated")),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    text = f"""\
# The gain over the baseline: interval coverage on the study

`python -m benchmarks.gain_coverage`: {SWEEPS:,} sweeps of {TRIALS} trials a row, drawn from the {len(means)}
configurations of `benchmarks/data/study.parquet` that were trained with two seeds. Their means count as true losses,
the deviations of single runs from them (standard deviation {noise.std():.3f} nats) as noise. The interval is the
report's, by Welch's t over new seeds of winner and baseline. *Claims better*: its lower end is above 0. *Off*: mean of
the estimated minus the true gain, in nats, by the runs that decided the winner and by new seeds.

| configurations | new seeds | interval covers | claims better | claims it wrongly | off, first runs | off, new seeds |
| --- | --- | --- | --- | --- | --- | --- |
"""
    rng, single = np.random.default_rng(1), []
    for near in (False, True):
        for groups in (0, 1, 2, 3, 5):
            found = measure_single(means, noise, groups, near, rng)
            cells = [
                "within 0.1 nats of the best" if near else "all",
                f"{groups} x 3" if groups else "none",
                *(f"{found[key]:.1%}" for key in ("covered", "claimed", "wrong")),
                f"{found['width']:.3f}",
            ]
            single.append(f"| {' | '.join(cells)} |")
    second = f"""
## Without replicates of winner and baseline

One run each; the interval is the report's, corrected for the choice of the winner among {TRIALS} trials. Its standard
error over validation samples is {SAMPLING:g} nats here. *Repeated runs*: other configurations that the sweep has
trained with three seeds each, whose pooled spread widens the interval; without any it leaves seed noise out. Sweeps
whose best run is the baseline's are left out.

| configurations | repeated runs | interval covers | claims better | claims it wrongly | half width (nats) |
| --- | --- | --- | --- | --- | --- |
"""
    return text + "\n".join(rows) + "\n" + second + "\n".join(single) + "\n"


if __name__ == "__main__":
    RESULT.write_text(page(), encoding="utf-8")
