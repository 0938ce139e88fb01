"""Early stopping for transformers.Trainer in Ray Tune: a small callback reports what the scheduler needs.

Run it: ``python docs/examples/trainer_callback.py``. It trains a tiny random Llama on made-up sequences.
"""

from __future__ import annotations

import tempfile
from typing import Any

import ray
from ray import tune
from transformers import TrainerCallback

from sweepft.schedulers import EarlyDynamicsScheduler

STEPS, BATCH = 20, 4


class ReportToTune(TrainerCallback):
    """Reports loss, gradient norm, validation loss and samples seen to Ray Tune.

    A step that is logged and evaluated gives one report, so that the scheduler sees both together.
    """

    def __init__(self) -> None:
        self.row: dict[str, Any] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Training logs; held back if an evaluation of the same step follows."""
        if "loss" not in logs:
            return
        self.row = {"loss": logs["loss"], "grad_norm": logs.get("grad_norm")}
        if not control.should_evaluate:
            self.report(args, state)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Validation loss."""
        self.row["eval_loss"] = metrics["eval_loss"]
        self.report(args, state)

    def report(self, args: Any, state: Any) -> None:
        """One result."""
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        tune.report({**self.row, "step": state.global_step, "samples_seen": state.global_step * batch})
        self.row = {}


def train(config: dict) -> None:
    """An ordinary Trainer with one more callback."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=32, **sizes))
    rows = [{"input_ids": (t := (torch.arange(12) + i) % 32), "labels": t} for i in range(STEPS * BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=config["learning_rate"],
            lr_scheduler_type="constant",
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(
            model, arguments, train_dataset=rows, eval_dataset=rows[:8], callbacks=[ReportToTune()]
        ).train()


def main() -> None:
    """Sweep six learning rates and print who was stopped, when and why."""
    scheduler = EarlyDynamicsScheduler(
        metric="eval_loss", mode="min", budget=STEPS * BATCH, rungs=(0.2, 0.5), min_steps=2, audit=0.0
    )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    rates = [3e-2, 1e-2, 1e-6, 1e-5, 3e-6, 1e-7]
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
