"""Early stopping for a plain training loop in Ray Tune: report what you have, add the scheduler.

Run it: ``python docs/examples/plain_loop.py``. It fits lines by SGD in PyTorch, with good and bad learning rates.
"""

from __future__ import annotations

import ray
import torch
from ray import tune

from sweepft.schedulers import EarlyDynamicsScheduler

STEPS, BATCH = 40, 16


def train(config: dict) -> None:
    """A plain PyTorch loop; the only lines about sweeps are the reports."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    truth = torch.randn(8, 1)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=config["learning_rate"])
    validation = torch.randn(64, 8)
    for step in range(1, STEPS + 1):
        x = torch.randn(BATCH, 8)
        loss = torch.nn.functional.mse_loss(model(x), x @ truth)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        optimizer.step()
        result = {"step": step, "samples_seen": step * BATCH, "loss": loss.item(), "grad_norm": norm.item()}
        if step % 4 == 0:  # the objective need not be in every report
            with torch.no_grad():
                result["eval_loss"] = torch.nn.functional.mse_loss(
                    model(validation), validation @ truth
                ).item()
        tune.report(result)


def main() -> None:
    """Sweep eight learning rates; print which were stopped, when and why."""
    scheduler = EarlyDynamicsScheduler(
        metric="eval_loss", mode="min", budget=STEPS * BATCH, rungs=(0.1, 0.25, 0.5), min_steps=2, audit=0.0
    )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    rates = [0.05, 0.1, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 3.0]
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"learning_rate": tune.grid_search(rates)},
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=2),
        run_config=tune.RunConfig(verbose=0),
    ).fit()
    for decision in scheduler.drain_decisions():
        if decision.action != "continue":
            print(f"{decision.trial_id} {decision.action} at step {decision.step}: {decision.reason}")
    summary = scheduler.summary()
    print(f"statuses={summary['statuses']} trials_saved={summary['trials_saved']:.2f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
