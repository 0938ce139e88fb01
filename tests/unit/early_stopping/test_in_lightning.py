"""sweepft's scheduler and pruner in searches of PyTorch Lightning: by Ray's callback and by Optuna's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from ray import cloudpickle, tune

from support.ray_session import local_ray
from sweepft.pruners import EarlyDynamicsPruner
from sweepft.schedulers import EarlyDynamicsScheduler

pytestmark = [pytest.mark.full, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
EPOCHS = 8


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
    with local_ray():
        yield


def train(rate: float, callback: Any, folder: str) -> float:
    """Fit a small regression; returns the last validation loss."""
    lightning = pytest.importorskip("lightning.pytorch")

    class Regression(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=rate)

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(128, 4, generator=generator)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True).sin())
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Regression(), loader, loader)
    return float(trainer.callback_metrics["val_loss"])


def train_in_tune(config: dict[str, Any]) -> None:
    """Ray's own callback reports after each validation."""
    from ray.tune.integration.pytorch_lightning import TuneReportCheckpointCallback

    callback = TuneReportCheckpointCallback(
        {"loss": "val_loss"}, save_checkpoints=False, on="train_epoch_end"
    )
    train(config["rate"], callback, ".")


@pytest.mark.ray
def test_scheduler__in_lightning_with_rays_callback(session: None, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    scheduler = EarlyDynamicsScheduler(max_t=EPOCHS, grace_period=1)
    results = tune.Tuner(
        tune.with_resources(train_in_tune, {"cpu": 0.5}),
        param_space={"rate": tune.grid_search([10.0**-k for k in (0.5, 1, 1.5, 2, 3, 4, 5, 6)])},
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, max_concurrent_trials=2),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    epochs = [r.metrics["training_iteration"] for r in results]
    assert min(epochs) < EPOCHS == max(epochs)
    assert results.get_best_result("loss", "min").metrics["training_iteration"] == EPOCHS
    assert scheduler.warnings == []
    print(
        f"\nDROP-IN lightning ray: {sum(e < EPOCHS for e in epochs)} of {len(epochs)} stopped, {sum(epochs)} epochs"
    )


def test_pruner__in_lightning_with_optunas_callback(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    integration = pytest.importorskip("optuna_integration")

    def objective(trial: optuna.Trial) -> float:
        callback = integration.PyTorchLightningPruningCallback(trial, monitor="val_loss")
        return train(trial.suggest_float("rate", 1e-6, 0.5, log=True), callback, str(tmp_path))

    study = optuna.create_study(
        pruner=EarlyDynamicsPruner(budget=EPOCHS), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(objective, n_trials=12)
    pruned = [t for t in study.trials if t.state is optuna.trial.TrialState.PRUNED]
    assert 0 < len(pruned) < 12
    assert all((t.last_step or 0) < EPOCHS - 1 for t in pruned), "none at its last epoch"
    assert study.best_trial.last_step == EPOCHS - 1
    used = sum((t.last_step or 0) + 1 for t in study.trials)
    print(f"\nDROP-IN lightning optuna: {len(pruned)} of 12 pruned, {used} of {12 * EPOCHS} epochs")
