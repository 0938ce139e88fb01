"""Does `search.enough` end searches at the right time? Replayed on recorded runs.

``python -m benchmarks.enough [--curves FOLDER] [--seeds 40]`` writes ``benchmarks/results/enough.md``. Each search
has 60 trials of TPE. After each completed trial from the twelfth on, the gain that is expected of a further trial is
estimated as a sweep does it (`sweepft.search.enough`), and by Optuna's two terminators. For each threshold, the search
would have ended at the first estimate below it: trials saved, and how much worse its winner is than that of all 60
trials, by true losses (means over seeds).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.search_tables import Table, public_tables, run_search, spec_of, study_table
from optuna.study import StudyDirection
from optuna.terminator import EMMREvaluator, RegretBoundEvaluator
from optuna.trial import TrialState, create_trial

from sweepft.ledger import TrialState as SweepTrial
from sweepft.search.enough import expected_gain
from sweepft.search.space import Space
from sweepft.spec import SweepSpec

RESULT = Path(__file__).resolve().parent / "results" / "enough.md"
TRIALS, FIRST = 60, 12
Estimate = Callable[[SweepSpec, list[SweepTrial], int], float]


def ours(spec: SweepSpec, trials: list[SweepTrial], seed: int) -> float:
    found = expected_gain(spec, trials)
    return np.inf if found is None else found


def regret_bound(spec: SweepSpec, trials: list[SweepTrial], seed: int) -> float:
    return float(RegretBoundEvaluator(seed=seed).evaluate(_frozen(spec, trials), StudyDirection.MINIMIZE))


def emmr(spec: SweepSpec, trials: list[SweepTrial], seed: int) -> float:
    """Optuna's estimate has no unit: times the standard deviation of the losses it is in nats."""
    spread = float(np.std([trial.objective for trial in trials]))
    return spread * float(EMMREvaluator(seed=seed).evaluate(_frozen(spec, trials), StudyDirection.MINIMIZE))


ESTIMATES: dict[str, Estimate] = {
    "expected improvement": ours, "Optuna's regret bound": regret_bound, "Optuna's EMMR": emmr
}  # fmt: skip


def _frozen(spec: SweepSpec, trials: Iterable[SweepTrial]) -> list[Any]:
    space = Space(spec)
    return [
        create_trial(
            state=TrialState.COMPLETE,
            value=trial.objective,
            params=space.encode(trial.params),
            distributions=space.distributions,
        )
        for trial in trials
    ]


def completed(number: int, params: dict[str, Any], loss: float) -> SweepTrial:
    """A trial that has completed, as a ledger's state has it."""
    trial = SweepTrial(
        trial_id=f"t{number:03d}", number=number, params=params, train_config={}, origin="sampler",
        planned_steps=1, warmup_steps=0, budget_samples=1,
    )  # fmt: skip
    trial.end, trial.status, trial.objective = {"status": "completed"}, "completed", loss
    return trial


def one_search(table: Table, seed: int, every: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """True loss of the winner after each trial, and each estimate after each trial (NaN where none was made)."""
    spec = spec_of(table, TRIALS, seed)
    trials: list[SweepTrial] = []
    true, winner = [], []
    found = {name: np.full(TRIALS, np.nan) for name in ESTIMATES}
    for number, (params, loss, mean) in enumerate(run_search(table, spec, seed)):
        trials.append(completed(number, params, loss))
        true.append(mean)
        winner.append(true[int(np.argmin([trial.objective for trial in trials]))])
        if len(trials) >= FIRST and len(trials) % every == 0:
            for name, estimate in ESTIMATES.items():
                found[name][number] = estimate(spec, trials, seed)
    return np.array(winner), found


def rows_of(
    table: Table, searches: list[tuple[np.ndarray, dict[str, np.ndarray]]], gains: Iterable[float]
) -> list[str]:
    rows = []
    for name in ESTIMATES:
        for gain in gains:
            saved, regret = [], []
            for winner, found in searches:
                below = np.flatnonzero(found[name] < gain)
                end = int(below[0]) if len(below) else len(winner) - 1
                saved.append(len(winner) - 1 - end)
                regret.append(winner[end] - winner[-1])
            cells = [
                table.name, name, f"{gain:g}", f"{np.mean(np.array(saved) > 0):.0%}", f"{np.median(saved):.0f}",
                f"{np.mean(regret):+.4f}", f"{np.quantile(regret, 0.9):+.4f}",
            ]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--curves", type=Path, help="folder of public learning curves (taskset.parquet)")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--every", type=int, default=2, help="estimate after every so many trials")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, spans = [], []
    for table in [study_table(), *(public_tables(args.curves)[:2] if args.curves else [])]:
        searches = [one_search(table, seed, args.every) for seed in range(args.seeds)]
        rows += rows_of(table, searches, (0.002, 0.005, 0.01, 0.02, 0.05))
        start = np.median([winner[FIRST - 1] - winner[-1] for winner, _ in searches])
        noise = [np.std(losses, ddof=1) for losses in table.losses if len(losses) > 1]
        spans.append(
            f"{table.name}: {len(table.points)} configurations; from trial {FIRST} to {TRIALS} the winner "
            f"improves by {start:.3f} nats (median)"
            + (f"; seed noise {np.sqrt(np.mean(np.square(noise))):.3f} nats" if noise else "")
        )
        args.out.write_text(page(rows, spans, args.seeds, args.every), encoding="utf-8")


def page(rows: list[str], spans: list[str], seeds: int, every: int) -> str:
    listed = "\n".join(f"- {span}" for span in spans)
    table = "\n".join(rows)
    return f"""\
# When has a search found enough? Replayed on recorded runs

`python -m benchmarks.enough --curves CURVES --seeds {seeds} --every {every}`: {seeds} searches of {TRIALS} trials by
TPE on each table, with losses looked up at the nearest recorded configuration (one of its runs at random). From trial
{FIRST} on the gain of a further trial is estimated; the search would end at the first estimate below the threshold.
*Ended*: searches that would have. *Saved*: trials of {TRIALS}, median. *Regret*: true loss of the winner at that
point minus that of the winner of all {TRIALS} trials, in nats; negative where more trials only found a luckier run.

{listed}

| table | estimate | threshold (nats) | ended | saved | mean regret | regret, 90% quantile |
| --- | --- | --- | --- | --- | --- | --- |
{table}
"""


if __name__ == "__main__":
    main()
