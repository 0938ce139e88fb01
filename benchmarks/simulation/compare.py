"""Compares search strategies: which one finds the best model for the same GPU-hours?

Every system is a Ray searcher with a Ray scheduler, run on the same slots over the same curves until the GPU-hours are
spent. It is scored by the true loss of its best completed configuration, which the curves know and the systems do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from benchmarks.simulation.courses import CurveSource, SimulatedCurve, budget_of
from benchmarks.simulation.trainable import Playback
from benchmarks.simulation.tuner import VirtualTrial, VirtualTuner
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from sweepft.driver.build import build_scheduler
from sweepft.early_stopping import PriorSweeps
from sweepft.replay.score import bootstrap
from sweepft.search import Proposer
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.spec import Dimension, SweepSpec, from_dict

SHARES: Final = (0.25, 0.5, 1.0)
"""Fractions of the GPU-hours at which the best configuration so far is scored."""


@dataclass(frozen=True)
class SystemRow:
    """One system, over all seeds.

    Attributes:
        system: Its name.
        seeds: Number of sweeps.
        regret: By share of the GPU-hours: true loss of the best completed configuration minus that of the best known
            one (nats per target token), mean and 95% bootstrap interval: ``(mean, low, high)``.
        trials: Mean number of trials started.
        completed: Mean number of trials that reached the full budget.
    """

    system: str
    seeds: int
    regret: dict[float, tuple[float, float, float]]
    trials: float
    completed: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def compare_systems(
    spec: SweepSpec,
    courses: Callable[[int], CurveSource],
    *,
    full_trials: float,
    seeds: int,
    systems: Sequence[str] = (),
) -> list[SystemRow]:
    """Run every system once per seed, over the same slots for the same virtual time.

    Args:
        spec: Space, budget, slots and, for sweepft, search and early stop.
        courses: Makes the curves for a seed; every system gets the same ones.
        full_trials: GPU-hours of each system, in full trials of mean length.
        seeds: Number of sweeps per system.
        systems: Names from `SYSTEMS`; all by default.
    """
    names = systems or tuple(SYSTEMS)
    found: dict[str, list[_Sweep]] = {name: [] for name in names}
    regrets: dict[str, list[list[float]]] = {name: [] for name in names}
    for seed in range(seeds):
        known = courses(seed)
        seconds, best = _yardstick(spec, known, seed)
        until = seconds * full_trials / spec.resources.concurrent_trials
        for name in names:
            sweep = _run(spec, known, name, seed, until)
            found[name].append(sweep)
            best = min(best, *(worth for _, worth in sweep.ended), math.inf)
        for name in names:
            regrets[name].append([found[name][-1].best(share * until) - best for share in SHARES])
    return [_row(name, found[name], np.array(regrets[name])) for name in names]


def _row(name: str, sweeps: Sequence[_Sweep], regrets: np.ndarray[Any, Any]) -> SystemRow:
    summary = {}
    for share, column in zip(SHARES, regrets.T, strict=True):
        low, high = (
            bootstrap(column.tolist()) if np.isfinite(column).all() and len(column) > 1 else (math.nan,) * 2
        )
        summary[share] = (float(column.mean()), low, high)
    mean = [float(np.mean(v)) for v in ([s.begun for s in sweeps], [len(s.ended) for s in sweeps])]
    return SystemRow(name, len(sweeps), summary, *mean)


@dataclass
class _Sweep:
    """One sweep of one system: completed trials as (end time, true loss), and the objectives that they reported."""

    begun: int
    ended: list[tuple[float, float]]
    objectives: list[float]

    def best(self, at: float) -> float:
        """True loss of the configuration with the best reported objective among those completed by then."""
        there = [(o, w) for (t, w), o in zip(self.ended, self.objectives, strict=True) if t <= at]
        return min(there)[1] if there else math.inf


def _run(spec: SweepSpec, courses: CurveSource, name: str, seed: int, until: float) -> _Sweep:
    budget = budget_of(spec)
    system = SYSTEMS[name](_endless(spec, seed), budget, seed)
    begun: list[str] = []
    sweep = _Sweep(0, [], [])

    def play(trial: str, config: Mapping[str, Any], slot: str, warm: bool) -> Playback:
        begun.append(trial)
        job = config.get("job")  # Ray's own searchers propose bare params
        params = dict(config) if job is None else job.params
        train_config = spec.train_config(params, budget) if job is None else job.train_config
        return Playback(
            courses, params, train_config, budget=budget,
            rungs=spec.early_stop.rungs, slot=slot, warm=warm, every_report=not system.rungs,
        )  # fmt: skip

    def after(trial: VirtualTrial) -> None:
        result = trial.last_result
        if result["samples_seen"] >= budget and math.isfinite(result.get("objective", math.nan)):
            sweep.ended.append((tuner.clock.now, trial.playback.course.ideal))
            sweep.objectives.append(result["objective"])

    tuner = VirtualTuner(
        system.searcher,
        system.scheduler,
        play,
        slots=spec.resources.concurrent_trials,
        until=until,
        after=after,
    )
    tuner.fit()
    sweep.begun = len(begun)
    return sweep


@dataclass(frozen=True)
class _System:
    """``rungs``: whether validation loss is computed at rungs only and costs time; else at every report, for free."""

    searcher: Searcher
    scheduler: TrialScheduler
    rungs: bool = True


def _ours(spec: SweepSpec, budget: int, seed: int) -> _System:
    searcher = OptunaSearcher(Proposer(spec, None), budget)
    return _System(searcher, build_scheduler(spec, budget, PriorSweeps()))


def _plain(spec: SweepSpec, budget: int, seed: int) -> _System:
    changed = spec.to_dict()
    changed["search"] |= {"sampler": "random", "start_with": []}
    searcher = OptunaSearcher(Proposer(from_dict(changed), None), budget)
    return _System(searcher, FIFOScheduler(), rungs=False)


def _ray(spec: SweepSpec, budget: int, seed: int) -> _System:
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space({k: _domain(d) for k, d in spec.search.space.items()}),
        metric="objective", mode="min", seed=seed,
    )  # fmt: skip
    scheduler = ASHAScheduler(
        "samples_seen", "objective", "min", max_t=budget, grace_period=budget // 10, reduction_factor=3
    )
    return _System(searcher, scheduler, rungs=False)


SYSTEMS: Final[dict[str, Callable[[SweepSpec, int, int], _System]]] = {
    "random, no stops": _plain,
    "Ray OptunaSearch + ASHA": _ray,
    "sweepft": _ours,
}
"""Systems by name. Only sweepft pays for validation loss, at rungs; the others get it at every report for free."""


def _endless(spec: SweepSpec, seed: int) -> SweepSpec:
    changed = spec.to_dict()
    changed["search"] |= {"trials": 1_000_000, "seed": seed, "start_with": []}
    changed["early_stop"]["prior_sweeps"] = []
    return from_dict(changed)


def _domain(dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return tune.choice(list(dimension.choices))
    low, high = dimension.bounds
    if dimension.kind == "int_uniform":
        return tune.randint(int(low), int(high) + 1)
    return tune.loguniform(low, high) if dimension.kind == "log_uniform" else tune.uniform(low, high)


def _yardstick(spec: SweepSpec, courses: CurveSource, seed: int, draws: int = 400) -> tuple[float, float]:
    """Mean seconds of a full trial, and the true loss of the best of many random configurations."""
    changed = _endless(spec, seed).to_dict()
    changed["search"] |= {"sampler": "random", "seed": seed + 1_000_003}
    proposer = Proposer(from_dict(changed), None)
    seconds, worth = [], math.inf
    for _ in range(draws):
        proposal = proposer.ask()
        if proposal is None:
            break
        course = _course(spec, courses, proposal.params)
        seconds.append(float(course.seconds.sum()))
        worth = min(worth, course.ideal)
    return float(np.mean(seconds)), worth


def _course(spec: SweepSpec, courses: CurveSource, params: Mapping[str, Any]) -> SimulatedCurve:
    return courses.course(params, spec.train_config(params, budget_of(spec)))
