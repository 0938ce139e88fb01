"""A trial's train config for other tools: a spec of one trial, a DeepSpeed config, a TRL config.

All are plain dictionaries, so that tests can check each key against the tool that reads it.
"""

from __future__ import annotations

from typing import Any

from sweepft.export.facts import BestFacts
from sweepft.spec import Lora, Optimizer
from sweepft.training.config import deepspeed_offload


def one_trial_spec(facts: BestFacts) -> dict[str, Any]:
    """A sweep spec with this trial as its only point, for ``sweepft train``.

    The learning rate is the only dimension of the space; everything else is fixed in ``train``.
    """
    spec = facts.spec.to_dict()
    spec.pop("evaluate", None)  # there are no finalists
    spec.pop("mirror", None)  # the mirror belongs to the sweep
    train = facts.train_config.model_dump(mode="json", exclude={"budget_samples"}, exclude_none=True)
    rate = train.pop("learning_rate")
    data = {**spec["data"], **train.pop("data", {})}
    return {
        **spec,
        "name": f"{facts.spec.name[:74]}-best",
        "data": data,
        "train": train,
        "search": {
            "trials": 1,
            "sampler": "random",
            "seed": facts.spec.search.seed,
            "space": {"learning_rate": {"choice": [rate]}},
        },
        "early_stop": {"rule": "none", "rungs": list(facts.spec.early_stop.rungs)},
        "resources": {**spec["resources"], "concurrent_trials": 1},
        "keep": {"top": 1},
    }


def deepspeed_config(facts: BestFacts) -> dict[str, Any]:
    """A DeepSpeed config for the trial's number of ranks; gradient accumulation is rounded up."""
    s = facts.train_config
    ranks = facts.spec.resources.workers_per_trial
    return {
        "train_micro_batch_size_per_gpu": facts.micro_batch,
        "gradient_accumulation_steps": -(-s.batch_size // (facts.micro_batch * ranks)),
        "gradient_clipping": s.gradient_clipping,
        "bf16": {"enabled": s.precision == "bf16"},
        "zero_optimization": {"stage": s.zero_stage, **deepspeed_offload(s.offload)},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def trl_config(facts: BestFacts) -> dict[str, Any]:
    """Arguments of ``trl sft --config``: ``transformers.TrainingArguments`` and TRL's own for data."""
    s, spec = facts.train_config, facts.spec
    kind, arguments = _scheduler(facts)
    ranks = spec.resources.workers_per_trial
    return {
        "model_name_or_path": spec.model.path,
        **({"model_revision": spec.model.revision} if spec.model.revision else {}),
        "datasets": [_dataset(source.path, source.split) for source in spec.data.train],
        "max_length": spec.data.max_length,
        "packing": False,
        "assistant_only_loss": True,
        "output_dir": "trained",
        "max_steps": s.planned_steps,
        "per_device_train_batch_size": facts.micro_batch,
        "gradient_accumulation_steps": -(-s.batch_size // (facts.micro_batch * ranks)),
        "learning_rate": s.learning_rate,
        "lr_scheduler_type": kind,
        **({"lr_scheduler_kwargs": arguments} if arguments else {}),
        "warmup_steps": s.warmup_steps,
        **_optimizer(s.optimizer),
        "adam_beta1": s.optimizer.betas[0],
        "adam_beta2": s.optimizer.betas[1],
        "adam_epsilon": s.optimizer.eps,
        "weight_decay": s.optimizer.weight_decay,
        "max_grad_norm": s.gradient_clipping,
        "bf16": s.precision == "bf16",
        "gradient_checkpointing": s.gradient_checkpointing,
        "seed": s.seed,
        "deepspeed": "deepspeed.json",
        **({"use_liger_kernel": True} if s.liger else {}),
        **({"torch_compile": True} if s.compile else {}),
        **({} if s.lora is None else _peft(s.lora)),
    }


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    if optimizer.name == "sgd":
        return {"optim": "sgd", "optim_args": f"momentum={optimizer.momentum}"}
    names = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}
    return {"optim": names[optimizer.name]}


def _peft(lora: Lora) -> dict[str, Any]:
    """Arguments of ``trl.ModelConfig``, where alpha is an integer."""
    named = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return {
        "use_peft": True,
        "lora_r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "lora_target_modules": named,
    }


def _dataset(path: str, split: str | None) -> dict[str, Any]:
    kind = next((k for k, ends in _FORMATS.items() if path.endswith(ends)), None)
    return {"path": path, "split": split or "train"} if kind is None else {"path": kind, "data_files": path}


_FORMATS = {"json": (".jsonl", ".jsonl.gz", ".json", ".json.gz"), "parquet": (".parquet",)}


def _scheduler(facts: BestFacts) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the schedule in ``transformers``.

    The only difference: there the warmup of wsd starts at ``min_lr_ratio`` of the peak instead of 0.
    """
    s = facts.train_config
    if s.schedule == "constant":
        return "constant_with_warmup", {}
    if s.schedule == "cosine":
        return "cosine_with_min_lr", {"min_lr_rate": s.min_lr_ratio}
    if s.schedule == "wsd":
        decay = min(-int(-s.decay_fraction * s.planned_steps // 1), s.planned_steps - s.warmup_steps)
        return "warmup_stable_decay", {"num_decay_steps": decay, "min_lr_ratio": s.min_lr_ratio}
    if s.schedule == "inverse_sqrt":
        return "inverse_sqrt", {"timescale": s.warmup_steps or 10_000}
    end = s.min_lr_ratio * s.learning_rate
    return "polynomial", {"lr_end": end, "power": s.power if s.schedule == "polynomial" else 1.0}
