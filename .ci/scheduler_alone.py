"""A Ray Tune sweep with sweepft's scheduler where only ``pip install sweepft`` was done; the folder is the argument."""

import sys

from ray import tune

import sweepft.pruners  # it must be importable, too  # noqa: F401
from sweepft.schedulers import EarlyDynamicsScheduler


def train(config: dict[str, float]) -> None:
    """A loss that falls to a floor given by ``x``."""
    for step in range(1, 31):
        tune.report({"eval_loss": config["x"] + 1 / step})


def main(folder: str) -> None:
    """Run eight trials, and check that some were stopped and that nothing heavy was loaded."""
    results = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([k / 10 for k in range(1, 9)])},
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            max_concurrent_trials=2,
            scheduler=EarlyDynamicsScheduler(max_t=30),
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    ).fit()
    steps = [result.metrics["training_iteration"] for result in results]
    assert min(steps) < max(steps) == 30, steps
    heavy = {"torch", "transformers", "deepspeed", "datasets"} & set(sys.modules)
    assert not heavy, heavy


if __name__ == "__main__":
    main(sys.argv[1])
