"""Replays of rules by name, over studies and random orders; what the command and the benchmarks call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go

from sweepft.early_stopping import (
    RULES,
    EarlyStopper,
    PriorSweeps,
    PriorSweepsLike,
    make_rule,
    read_prior_sweeps,
)
from sweepft.early_stopping.rungs import RungSpec
from sweepft.errors import ReplayError
from sweepft.files import write_output
from sweepft.replay.clock import Outcome, replay_study
from sweepft.replay.curves import Study, count_reasons
from sweepft.replay.policies import EarlyStopperPolicy, ForesightPolicy, OraclePolicy, Policy, RandomPolicy
from sweepft.replay.score import Score, mean_scores, score_outcome, top_runs

OTHERS: Final = (
    "random",
    "oracle",
    "foresight",
    "foresight-good",
    "asha4",
    "ray-asha",
    "ray-asha4",
    "ray-hyperband",
    "ray-median",
    "optuna-median",
    "optuna-percentile",
    "optuna-hyperband",
)


@dataclass(frozen=True)
class Replay:
    """The settings of a replay.

    Attributes:
        rungs: Where sweepft's rules judge.
        slots: Runs at the same time.
        orders: Random orders per study.
        group: Runs per sweep; larger studies are sampled for each order. None for all.
        min_steps: As in a live sweep.
        min_peers: As in a live sweep.
        top_fraction: The best share of the runs.
        max_false_stop_rate: Bound of the calibrated rule.
        audit: Share of flagged trials trained to completion; they count as spent.
        covariates: Hyperparameters for the calibrated rule.
        noise: Objectives closer than this are equal.
        prior_sweeps: For the calibrated rule.
        pause: sweepft's rules pause what they flag; it may resume once all runs of a sweep have started.
        seed: Of orders, samples and audits.
        shuffle: False replays the recorded order, once.
    """

    rungs: Sequence[RungSpec] = (0.05, 0.10, 0.25, 0.50)
    slots: int = 4
    orders: int = 20
    group: int | None = None
    min_steps: int = 0
    min_peers: int = 3
    top_fraction: float = 0.2
    max_false_stop_rate: float = 0.10
    audit: float = 0.0
    covariates: Sequence[str] = ()
    noise: float = 0.0
    prior_sweeps: PriorSweepsLike = None
    pause: bool = False
    seed: int = 0
    shuffle: bool = True


@dataclass(frozen=True)
class Stop:
    """One stop in the first order: which run, how far it was, why, and the result it would have had."""

    study: str
    rule: str
    run_id: str
    spent: float
    reason: str
    final: float
    was_good: bool


@dataclass(frozen=True)
class ReplayRow:
    """One rule on one study: the mean over its orders."""

    source: str
    study: str
    rule: str
    orders: int
    runs: int
    score: Score
    stops: tuple[Stop, ...] = field(default=(), repr=False)

    def to_row(self) -> dict[str, Any]:
        """Flat and JSON-able."""
        head = {"source": self.source, "study": self.study, "rule": self.rule, "orders": self.orders}
        return {**head, "runs": self.runs, **asdict(self.score)}


def make_policy(name: str, study: Study, settings: Replay, order: int) -> Policy:
    """A fresh policy of this name, one of `RULES` or `OTHERS`.

    Raises:
        ValueError: Another name.
    """
    if name in RULES or name == "asha4":
        known = PriorSweeps()
        if name == "calibrated":
            known = read_prior_sweeps(
                settings.prior_sweeps,
                top_fraction=settings.top_fraction,
                max_false_stop_rate=settings.max_false_stop_rate,
            )
        rule = make_rule(
            "asha" if name == "asha4" else name,
            eta=4.0 if name == "asha4" else 3.0,
            min_peers=settings.min_peers,
            top_fraction=settings.top_fraction,
            max_false_stop_rate=settings.max_false_stop_rate,
            covariates=settings.covariates,
            audit=settings.audit,
            prior_sweeps=known,
        )
        rungs = settings.rungs if not name.startswith("asha") else _rungs(4.0 if name == "asha4" else 3.0)
        early_stopper = EarlyStopper(
            rule=rule,
            rungs=rungs,
            budget=study.budget,
            mode=study.mode,
            min_steps=settings.min_steps,
            top_fraction=settings.top_fraction,
            audit=settings.audit,
            seed=settings.seed + order,
            pause=settings.pause,
            prior_sweeps=known,
        )
        return EarlyStopperPolicy(early_stopper, len(study.runs))
    if name == "random":
        return RandomPolicy(study, share=0.6, rung=0.1, seed=settings.seed + order)
    if name == "oracle":
        return OraclePolicy(study, rung=0.1)
    if name in ("foresight", "foresight-good"):
        top = max(1, math.ceil(settings.top_fraction * len(study.runs) - 1e-9))
        return ForesightPolicy(study, rung=0.05, keep=top if name == "foresight-good" else 1)
    if name.startswith("ray-"):
        from sweepft.replay.ray_policies import make_ray_policy

        return make_ray_policy(name, study, settings.seed + order)
    if name.startswith("optuna-"):
        from sweepft.replay.optuna_policies import make_optuna_policy

        return make_optuna_policy(name, study, settings.seed + order)
    raise ValueError(f"rule: must be one of {', '.join((*RULES, *OTHERS))} (got {name!r})")


def _rungs(eta: float) -> tuple[float, ...]:
    """Rungs of successive halving at 1/eta, 1/eta^2, 1/eta^3 of the budget."""
    return (eta**-3, eta**-2, eta**-1)


def too_few_ends(study: Study, settings: Replay) -> str | None:
    """Why a study cannot be scored, None where it can: a rule compares a run with ``min_peers`` others."""
    needed = settings.min_peers + 1
    if study.known_ends >= needed:
        return None
    runs = len(study.runs) + study.left_out
    out = f" ({count_reasons(study.omitted)} left out)" if study.left_out else ""
    return (
        f"{study.name}: the result of {study.known_ends} of {runs} runs is known{out}, and {needed} are needed:"
        f" a rule compares a run with at least {settings.min_peers} others"
    )


def replay_all(studies: Sequence[Study], rules: Sequence[str], settings: Replay) -> list[ReplayRow]:
    """Every rule over every study; a row each.

    Raises:
        ReplayError: A study has too few runs whose result is known: scores would mean nothing.
    """
    for study in studies:
        refused = too_few_ends(study, settings)
        if refused is not None:
            raise ReplayError(f"{refused}\n  leave it out, or lower --min-peers", key="replay.too_few_ends")
    return [row for study in studies for row in _replay_study(study, rules, settings)]


def _replay_study(study: Study, rules: Sequence[str], settings: Replay) -> list[ReplayRow]:
    scores: dict[str, list[Score]] = {rule: [] for rule in rules}
    first: dict[str, tuple[Stop, ...]] = {}
    runs = min(settings.group or len(study.runs), len(study.runs))
    orders = settings.orders if settings.shuffle else 1
    for order in range(orders):
        picked = study.sample(runs, settings.seed + order) if settings.shuffle else study
        indices = range(len(picked.runs))
        full = makespan(picked, settings.slots)
        for rule in rules:
            policy = make_policy(rule, picked, settings, order)
            outcome = replay_study(picked, policy, slots=settings.slots, order=indices)
            scores[rule].append(
                score_outcome(
                    picked,
                    outcome,
                    full_makespan=full,
                    top_fraction=settings.top_fraction,
                    noise=settings.noise,
                )
            )
            if order == 0:
                first[rule] = _stops(picked, outcome, rule, settings.top_fraction)
    return [
        ReplayRow(study.source, study.name, rule, orders, runs, mean_scores(scores[rule]), first[rule])
        for rule in rules
    ]


def makespan(study: Study, slots: int) -> float:
    """The sweep's time without any stop."""
    free = [0.0] * slots
    for run in study.runs:
        free.sort()
        free[0] += run.cost
    return max(free)


def _stops(study: Study, outcome: Outcome, rule: str, top_fraction: float) -> tuple[Stop, ...]:
    top = top_runs(study, top_fraction)
    return tuple(
        Stop(study.name, rule, r.run_id, o.spent / r.cost, o.reason, r.final, r.run_id in top)
        for r in study.runs
        for o in (outcome.runs[r.run_id],)
        if o.status != "completed"
    )


def write_plot(rows: Sequence[ReplayRow], path: Path) -> None:
    """Write the trade-off as a self-contained page: compute saved against the best run kept."""
    figure = go.Figure()
    for rule in dict.fromkeys(r.rule for r in rows):
        part = [r for r in rows if r.rule == rule]
        figure.add_trace(
            go.Scatter(
                x=[r.score.saved for r in part],
                y=[r.score.best_kept_within_noise for r in part],
                mode="markers",
                name=rule,
                text=[f"{r.study}: {100 * r.score.false_stop:.0f}% of the top runs lost" for r in part],
            )
        )
    figure.update_layout(
        title="Early-stopping rules on recorded runs: one dot per study",
        xaxis={"title": "share of compute saved", "range": [-0.02, 1]},
        yaxis={"title": "sweeps in which the best run was kept", "range": [-0.02, 1.05]},
    )
    write_output(path, figure.to_html(include_plotlyjs=True, full_html=True))
