"""sweepft's scheduler and pruner in place of others, in programs built like the public examples of Ray, Optuna and
Transformers: one argument changes. ``docs/reference/drop-in.md`` lists what was stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from ray import cloudpickle, tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from support.ray_session import local_ray
from sweepft.pruners import EarlyDynamicsPruner
from sweepft.schedulers import EarlyDynamicsScheduler

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
    with local_ray():
        yield


def height(step: float, width: float, level: float) -> float:
    """A loss that falls at a rate given by ``width`` to a floor given by ``level``."""
    return 1.0 / (0.1 + width * step / 100) + 0.1 * level


def function_example(config: dict[str, Any]) -> None:
    """A function that reports one metric per iteration."""
    for step in range(config.get("steps", 100)):
        tune.report({"iterations": step, "mean_loss": height(step, config["width"], config["height"])})


def conditional_example(config: dict[str, Any]) -> None:
    """The same with an activation that shifts the loss, as the define-by-run example has one."""
    shift = 10.0 if config.get("activation") == "relu" else 0.0
    for step in range(config.get("steps", 100)):
        tune.report(
            {"iterations": step, "mean_loss": shift + height(step, config["width"], config["height"])}
        )


class ClassExample(tune.Trainable):
    """A class that never ends by itself, and reports a reward."""

    def setup(self, config: dict[str, Any]) -> None:
        self.config, self.steps = config, 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        value = math.tanh(self.steps / self.config["width"]) * self.config["height"]
        return {"episode_reward_mean": value}

    def save_checkpoint(self, folder: str) -> None:
        Path(folder, "steps").write_text(str(self.steps))

    def load_checkpoint(self, folder: Any) -> None:
        self.steps = int(Path(folder, "steps").read_text())


def reward_example(config: dict[str, Any]) -> None:
    """The class as a function: it reports until it is ended."""
    for step in range(1, 101):
        tune.report({"episode_reward_mean": math.tanh(step / config["width"]) * config["height"]})


SPACE = {
    "width": tune.uniform(0, 20),
    "height": tune.uniform(-100, 100),
    "activation": tune.choice(["relu", "tanh"]),
}
REWARDS = {"width": tune.randint(10, 90), "height": tune.randint(1, 100)}
Example = tuple[Callable[..., Any], Any, dict[str, Any], str, str, bool]
RAY: dict[str, Example] = {
    # trainable, their scheduler, its arguments, metric, mode, whether Optuna searches
    "async_hyperband": (
        function_example, ASHAScheduler, {"grace_period": 5, "max_t": 100}, "mean_loss", "min", False,
    ),
    "optuna": (function_example, ASHAScheduler, {"max_t": 100}, "mean_loss", "min", True),
    "optuna_define_by_run": (conditional_example, ASHAScheduler, {"max_t": 100}, "mean_loss", "min", True),
    "hyperband": (
        ClassExample, HyperBandScheduler, {"time_attr": "training_iteration", "max_t": 100}, "episode_reward_mean", "max",
        False,
    ),
    "hyperband_function": (
        reward_example, HyperBandScheduler, {"time_attr": "training_iteration", "max_t": 100}, "episode_reward_mean",
        "max", False,
    ),
}  # fmt: skip


def _fit(name: str, make: Any, folder: Path, trials: int = 12) -> tuple[Any, Any]:
    trainable, _, arguments, metric, mode, optuna_searches = RAY[name]
    space = dict(REWARDS if "reward" in metric else SPACE)
    scheduler = make(**arguments)
    search = None
    if optuna_searches:
        search = ConcurrencyLimiter(OptunaSearch(seed=3), max_concurrent=2)
    np.random.seed(3)
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 0.5}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            scheduler=scheduler,
            search_alg=search,
            num_samples=trials,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    return results, scheduler


@pytest.mark.ray
@pytest.mark.parametrize("name", RAY)
def test_scheduler__in_rays_examples(session: None, tmp_path: Path, name: str) -> None:
    results, scheduler = _fit(name, EarlyDynamicsScheduler, tmp_path)
    metric, mode = RAY[name][3:5]
    assert not results.errors
    iterations = [r.metrics["training_iteration"] for r in results]
    assert min(iterations) < 100
    assert max(iterations) == 100, "some trial trains to the end, and none beyond it"
    assert scheduler.warnings == []
    best = results.get_best_result(metric, mode)
    assert best.metrics["training_iteration"] == 100
    stopped = sum(d.ends_trial for d in scheduler.drain_decisions())
    print(
        f"\nDROP-IN ray {name}: {stopped} of {len(iterations)} stopped, {sum(iterations)} of {100 * len(iterations)}"
    )


# ----- Optuna --------------------------------------------------------------------------------------------


def simple(trial: optuna.Trial) -> float:
    """Optuna's simple pruning: a classifier with partial fits, an error rate per step, steps from 0."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    data = load_iris()
    x, x_test, y, y_test = train_test_split(data.data, data.target, test_size=0.4, random_state=0)
    model = SGDClassifier(alpha=trial.suggest_float("alpha", 1e-5, 1e-1, log=True), random_state=0)
    error = 1.0
    for step in range(100):
        model.partial_fit(x, y, classes=[0, 1, 2])
        error = 1.0 - model.score(x_test, y_test)
        trial.report(error, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(error)


def network(trial: optuna.Trial) -> float:
    """Ten epochs of a network, accuracy per epoch, from 0."""
    import torch

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = (x[:, 0] * x[:, 1] > 0).long()
    width = trial.suggest_int("n_units", 4, 64)
    model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.suggest_float("lr", 1e-5, 1e-1, log=True))
    accuracy = 0.0
    for epoch in range(10):
        for first in range(0, 256, 32):
            loss = torch.nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = (model(x).argmax(1) == y).float().mean().item()
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


def boosting(trial: optuna.Trial) -> float:
    """A hundred rounds of boosting on residuals, as the callbacks of boosting libraries report them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, 200)
    y = np.sin(x) + rng.normal(0, 0.1, 200)
    rate = trial.suggest_float("eta", 1e-3, 0.3, log=True)
    residual, error = y.copy(), 0.0
    for step in range(100):
        cut = np.quantile(x, rng.uniform(0.05, 0.95))
        left = x < cut
        residual -= rate * np.where(left, residual[left].mean(), residual[~left].mean())
        error = float(np.sqrt((residual**2).mean()))
        trial.report(error, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return error


OPTUNA = {
    "simple": (simple, "minimize", 100),
    "network": (network, "maximize", 10),
    "boosting": (boosting, "minimize", 100),
}


@pytest.mark.parametrize("name", OPTUNA)
def test_pruner__in_optunas_examples(name: str) -> None:
    objective, direction, steps = OPTUNA[name]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = 20
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(
        direction=direction, pruner=EarlyDynamicsPruner(budget=steps), sampler=sampler
    )
    study.optimize(objective, n_trials=trials)
    pruned = [t for t in study.trials if t.state is optuna.trial.TrialState.PRUNED]
    used = sum((t.last_step or 0) + 1 for t in study.trials)
    assert pruned
    assert len(pruned) < trials
    assert all((t.last_step or 0) < steps - 1 for t in pruned), "none at its last step"
    print(f"\nDROP-IN optuna {name}: {len(pruned)} of {trials} pruned, {used} of {trials * steps}")


# ----- Transformers --------------------------------------------------------------------------------------


def _search(backend: str, folder: Path, **kw: Any) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    rows = [{"input_ids": (ids := [(i * k) % 29 for k in range(12)]), "labels": ids} for i in range(1, 33)]
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=8,
        num_train_epochs=5,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )

    def model_init(trial: Any = None) -> Any:
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2))

    trainer = Trainer(args=arguments, model_init=model_init, train_dataset=rows, eval_dataset=rows[:8])
    return trainer.hyperparameter_search(direction="minimize", backend=backend, n_trials=8, **kw)


def test_scheduler__in_transformers_search_with_ray(session: None, tmp_path: Path) -> None:
    scheduler = EarlyDynamicsScheduler(metric="objective", mode="min", max_t=5, grace_period=1)
    best = _search(
        "ray",
        tmp_path,
        hp_space=lambda _: {"learning_rate": tune.loguniform(1e-6, 1e-1)},
        scheduler=scheduler,
        resources_per_trial={"cpu": 1, "gpu": 0},
        storage_path=str(tmp_path / "ray"),
    )
    assert best.hyperparameters["learning_rate"] > 1e-5
    stopped = sum(d.ends_trial for d in scheduler.drain_decisions())
    assert 0 < stopped < 8
    assert scheduler.warnings == []
    print(f"\nDROP-IN transformers ray: {stopped} of 8 stopped")


def test_pruner__in_transformers_search_with_optuna(tmp_path: Path) -> None:
    pruner = EarlyDynamicsPruner(budget=20)  # Trainer reports the global step: 4 an epoch, 5 epochs
    best = _search(
        "optuna",
        tmp_path,
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-1, log=True)},
        pruner=pruner,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    assert best.hyperparameters["learning_rate"] > 1e-5
    stopped = sum(d.ends_trial for d in pruner.decisions)
    assert 0 < stopped < 8
    print(f"\nDROP-IN transformers optuna: {stopped} of 8 pruned")
