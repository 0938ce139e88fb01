"""The scheduler on real fine-tuning curves: the complete runs of ``benchmarks/data/study.parquet``."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from ray.tune.schedulers import TrialScheduler

from sweepft.early_stopping.rungs import parse_rungs
from sweepft.replay.clock import Outcome, replay_study
from sweepft.replay.curves import Run, Study
from sweepft.replay.policies import Policy
from sweepft.replay.runner import Replay, make_policy, replay_all
from sweepft.replay.sources import frame_to_studies
from sweepft.schedulers import EarlyDynamicsScheduler

TABLE = Path(__file__).parents[3] / "benchmarks" / "data" / "study.parquet"
RUNGS = (0.125, 0.25, 0.5)
GROUP = 24


@pytest.fixture(scope="module")
def study() -> Study:
    frame = pd.read_parquet(TABLE)
    (found,) = frame_to_studies(frame[frame["study"] == "sweepft/study"], where=str(TABLE))
    return found


class ThroughRay(Policy):
    """A replay policy that asks the Ray scheduler, with plain results: one a step, the objective where measured."""

    rungs = parse_rungs(RUNGS)

    def __init__(self, scheduler: EarlyDynamicsScheduler) -> None:
        self._scheduler = scheduler
        self._trials: dict[str, Any] = {}

    def start(self, run: Run) -> None:
        self._trials[run.run_id] = SimpleNamespace(trial_id=run.run_id, config=run.params)
        self._scheduler.on_trial_add(None, self._trials[run.run_id])

    def report(self, run: Run, start: int, stop: int) -> str:
        for row in range(start, stop):
            decision = self._scheduler.on_trial_result(None, self._trials[run.run_id], self._result(run, row))
            if decision == TrialScheduler.STOP:
                return "stop"
        return "continue"

    def finish(self, run: Run, start: int) -> None:
        # Like the replay: what comes after the last report point is not judged any more.
        last = self._result(run, len(run.progress) - 1) | {"done": True}
        self._scheduler.on_trial_complete(None, self._trials[run.run_id], last)

    def reason(self, run_id: str) -> str:
        return ""

    @staticmethod
    def _result(run: Run, row: int) -> dict[str, Any]:
        result = {
            "step": int(run.step[row]),
            "samples_seen": float(run.progress[row]),
            "loss": float(run.loss[row]),
            "grad_norm": float(run.grad_norm[row]),
        }
        return result if math.isnan(run.metric[row]) else result | {"eval_loss": float(run.metric[row])}


def through_ray(picked: Study, rule: str) -> Outcome:
    scheduler = EarlyDynamicsScheduler(
        metric="eval_loss",
        mode="min",
        budget=picked.budget,
        rungs=RUNGS,
        rule=rule,
        min_steps=0,
        audit=0.0,
    )
    return replay_study(picked, ThroughRay(scheduler), slots=4, order=range(len(picked.runs)))


@pytest.mark.parametrize("rule", ["median", "recipe", "calibrated"])
def test_study__live_stops_are_those_of_the_replay(study: Study, rule: str) -> None:
    """Result by result through Ray's interface, or report by report in a replay: the same runs end."""
    for order in range(3):
        picked = study.sample(GROUP, order)
        decide = make_policy(rule, picked, Replay(rungs=RUNGS), order)
        said = replay_study(picked, decide, slots=4, order=range(GROUP))
        done = through_ray(picked, rule)
        assert [o.status for o in done.runs.values()] == [o.status for o in said.runs.values()]


def test_study__calibrated_keeps_the_best_and_recipe_does_not(study: Study) -> None:
    calibrated, recipe, random = (
        row.score
        for row in replay_all(
            [study], ["calibrated", "recipe", "random"], Replay(rungs=RUNGS, orders=8, group=GROUP)
        )
    )
    assert calibrated.saved > 0.28
    assert calibrated.best_kept >= 0.75
    assert calibrated.regret < 0.05  # nats; two seeds of one configuration differ by 0.02
    assert recipe.saved < calibrated.saved
    assert random.best_kept < calibrated.best_kept
