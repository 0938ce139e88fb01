"""The scheduler in a real Tuner: function and class trainables, Ray Train inside a trial, and failures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle, tune

from support.ray_session import local_ray
from sweepft.schedulers import EarlyDynamicsScheduler

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
    with local_ray():
        yield


def quality(config: dict[str, Any], step: int) -> float:
    return float(config["x"] + 1.0 / step)


def function_trainable(config: dict[str, Any]) -> None:
    """Loss at every step, the objective at every other one: no result needs to hold all keys."""
    for step in range(1, 11):
        row = {"step": step, "samples_seen": 10 * step, "loss": quality(config, step)}
        if step % 2 == 0:
            row["eval_loss"] = quality(config, step)
        tune.report(row)


class ClassTrainable(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.config = config

    def step(self) -> dict[str, Any]:
        step = self.iteration + 1
        if self.config["x"] == 9 and step == 4:
            raise RuntimeError("a rank died")
        result = {"step": step, "samples_seen": 10 * step, "loss": quality(self.config, step)}
        return {**result, "eval_loss": quality(self.config, step), "done": step == 10}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True


@pytest.mark.parametrize("trainable", [function_trainable, ClassTrainable])
def test_scheduler__stops_poor_trials_of_a_real_sweep(session: None, tmp_path: Path, trainable: Any) -> None:
    scheduler = EarlyDynamicsScheduler(
        metric="eval_loss",
        mode="min",
        budget=100,
        rungs=(0.2, 0.6),
        min_steps=2,
        min_peers=2,
        rule="median",
        audit=0,
    )
    values = [1, 2, 0, 5, 6, 9, 7, 8]
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"x": tune.grid_search(values), "trial_id": tune.sample_from(_named)},
        tune_config=tune.TuneConfig(
            scheduler=scheduler, max_concurrent_trials=1, reuse_actors=trainable is ClassTrainable
        ),
        run_config=run_config(tmp_path, trainable),
    ).fit()
    decisions = scheduler.drain_decisions()
    stopped = {v.trial_id for v in decisions if v.action == "stop"}
    assert stopped == {"t5", "t6", "t7", "t8", "t9"}
    finals = scheduler.early_stopper.cohort.finals
    assert finals == {"t0": 0.1, "t1": 1.1, "t2": 2.1}
    steps = {r.metrics["config"]["trial_id"]: r.metrics["step"] for r in results}
    assert {name: steps[name] for name in finals} == dict.fromkeys(finals, 10)
    assert all(steps[name] == 2 for name in stopped)


def run_config(folder: Path, trainable: Any) -> tune.RunConfig:
    checkpoints = tune.CheckpointConfig(checkpoint_at_end=False if trainable is ClassTrainable else None)
    return tune.RunConfig(storage_path=str(folder), verbose=0, checkpoint_config=checkpoints)


def _named(spec: Any) -> str:
    return f"t{spec.config.x}"


def test_scheduler__a_failing_trial_harms_no_other(session: None, tmp_path: Path) -> None:
    scheduler = EarlyDynamicsScheduler(
        metric="eval_loss", mode="min", budget=100, rungs=(0.2,), min_steps=2, min_peers=20
    )
    tune.Tuner(
        tune.with_resources(ClassTrainable, {"cpu": 1}),
        param_space={"x": tune.grid_search([9, 1]), "trial_id": tune.sample_from(_named)},
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1),
        run_config=run_config(tmp_path, ClassTrainable),
    ).fit()
    assert scheduler.summary()["statuses"] == {"failed": 1, "completed": 1}


@pytest.mark.full  # each trial starts a training group of its own: a minute in all
@pytest.mark.timeout(900)
def test_scheduler__judges_trials_that_use_ray_train(session: None, tmp_path: Path) -> None:
    """Ray's own recipe: a function trainable drives a trainer, whose callback hands the workers' reports to Tune."""
    scheduler = EarlyDynamicsScheduler(
        metric="eval_loss",
        mode="min",
        budget=100,
        rungs=(0.2, 0.6),
        min_steps=2,
        min_peers=2,
        rule="median",
        audit=0,
    )
    results = tune.Tuner(
        tune.with_resources(train_driver, {"cpu": 0.1}),
        param_space={
            "x": tune.grid_search([1, 0, 5]),
            "trial_id": tune.sample_from(_named),
            "folder": str(tmp_path),
        },
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1),
        run_config=run_config(tmp_path, train_driver),
    ).fit()
    assert not results.errors
    assert scheduler.early_stopper.cohort.finals == {"t0": 0.1, "t1": 1.1}
    (stop,) = (v for v in scheduler.drain_decisions() if v.action == "stop")
    assert (stop.trial_id, stop.step, stop.samples_seen) == ("t5", 2, 20)
    assert scheduler.early_stopper.cohort.trials["t5"].status == "stopped"


def train_driver(config: dict[str, Any]) -> None:
    """Two workers, no torch: rank 0's reports are the trial's."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    DataParallelTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.1}),
        run_config=RunConfig(
            name=config["trial_id"],
            storage_path=config["folder"] + "/train",
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def train_worker(config: dict[str, Any]) -> None:
    import time

    import ray.train

    for step in range(1, 11):
        ray.train.report({"step": step, "samples_seen": 10 * step, "eval_loss": quality(config, step)})
        time.sleep(0.3)  # a real step takes a while: Tune stops a trial between two reports
