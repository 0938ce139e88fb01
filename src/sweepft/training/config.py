"""What a rank must know of a sweep, and of one trial: plain data, so that no other floor needs torch to make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweepft.spec import TrainConfig, plan


def deepspeed_offload(offload: str) -> dict[str, Any]:
    """Keys of DeepSpeed's ``zero_optimization`` that put the optimizer, or the parameters too, into main memory."""
    host = {"device": "cpu", "pin_memory": True}
    named = {
        "none": (),
        "optimizer": ("offload_optimizer",),
        "optimizer_and_parameters": ("offload_optimizer", "offload_param"),
    }
    return {key: dict(host) for key in named[offload]}


@dataclass(frozen=True)
class ValidationSet:
    """A named held-out set: its token cache and its weight in the objective."""

    name: str
    cache: str
    weight: float


@dataclass(frozen=True)
class EngineConfig:
    """What all trials of a sweep share.

    Attributes:
        model_path: Local folder or hub id of the base model.
        vocab_size: Tokens the tokenizer knows; embeddings are widened where the model has fewer.
        train_cache: Folder of the tokenised training data (``sweepft.data``).
        validation: Held-out sets of the objective (weights above zero) and beside it.
        budget_samples: Samples every trial sees.
        rungs: Fractions of the budget at which held-out loss is computed.
        micro_batch: Rows, or tokens where samples are packed, that a rank runs forward at once; 0 is to be found by a
            probe.
        packed: Whether samples are packed into rows without padding.
        largest_batch: The largest global batch of the sweep.
        precision: ``fp32`` or ``bf16``.
        zero_stage: DeepSpeed ZeRO stage, 0-3.
        scratch: Folder on this node for the base weights that the ranks share.
        threads: CPU threads of a rank.
        longest: Tokens of the longest training row.
        offload: What lies in main memory instead of the GPU's (see ``sweepft.spec.Train``).
        liger: Whether Liger's kernels replace the model's own.
        allow_pickle: Names of pickle files with the model's weights that may be loaded.
        compiled: Whether ``torch.compile`` runs the model.
    """

    model_path: str
    train_cache: str
    budget_samples: int
    micro_batch: int
    scratch: str
    revision: str | None = None
    trust_remote_code: bool = False
    vocab_size: int = 0
    pad_id: int = 0
    validation: tuple[ValidationSet, ...] = ()
    rungs: tuple[float, ...] = ()
    precision: str = "fp32"
    zero_stage: int = 2
    threads: int = 1
    longest: int = 0
    packed: bool = False
    largest_batch: int = 1
    offload: str = "none"
    liger: bool = False
    allow_pickle: tuple[str, ...] = ()
    compiled: bool = False

    @property
    def least_micro_batch(self) -> int:
        """A micro-batch that cannot be made smaller: one sample."""
        return self.longest if self.packed else 1


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters in place of full fine-tuning (see ``sweepft.spec.Lora``)."""

    rank: int
    alpha: float
    dropout: float
    target_modules: str | tuple[str, ...]

    @property
    def shape(self) -> tuple[int, str | tuple[str, ...]]:
        """What an adapter is built with; the rest can be set in place."""
        return self.rank, self.target_modules


@dataclass(frozen=True)
class TrialConfig:
    """What one trial trains with: the effective ``train`` section, resolved to steps.

    Attributes:
        trial_id: Name of the trial, e.g. ``t007``.
        batch_size: Samples per optimizer step over all ranks.
        learning_rate: Peak learning rate.
        schedule: Key of ``sweepft.training.lr_schedules.SCHEDULES``.
        planned_steps: Optimizer steps to the budget's end.
        warmup_steps: Steps of linear warmup.
        seed: Seeds the sample order and dropout.
        gradient_clipping: Largest gradient norm, 0 for none.
        optimizer: ``adamw``, ``adafactor``, ``sgd`` or ``adamw_8bit``.
        momentum: Of ``sgd``.
        lora: Adapters to train in place of the weights, or None.
        curriculum: How its samples are put in order: ``sweepft.spec.Curriculum`` as plain data; None: all rows alike.
    """

    trial_id: str
    batch_size: int
    learning_rate: float
    schedule: str
    planned_steps: int
    warmup_steps: int = 0
    min_lr_ratio: float = 0.0
    decay_fraction: float = 0.2
    power: float = 2.0
    seed: int = 0
    gradient_clipping: float = 1.0
    gradient_checkpointing: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    lora: AdapterConfig | None = None
    curriculum: Mapping[str, Any] | None = None

    @classmethod
    def from_settings(cls, trial_id: str, settings: Mapping[str, Any], budget_samples: int) -> TrialConfig:
        """Resolve an effective ``train`` section to steps.

        Args:
            trial_id: Name of the trial.
            settings: What validates as ``sweepft.spec.TrainConfig``.
            budget_samples: Samples the trial sees.
        Raises:
            pydantic.ValidationError: If the settings are not valid.
        """
        train = TrainConfig.model_validate(dict(settings))
        steps = plan(train, budget_samples)
        return cls(
            trial_id=trial_id,
            batch_size=train.batch_size,
            learning_rate=train.learning_rate,
            schedule=train.schedule,
            planned_steps=steps.planned_steps,
            warmup_steps=steps.warmup_steps,
            min_lr_ratio=train.min_lr_ratio,
            decay_fraction=train.decay_fraction,
            power=train.power,
            seed=train.seed,
            gradient_clipping=train.gradient_clipping,
            gradient_checkpointing=train.gradient_checkpointing,
            betas=train.optimizer.betas,
            eps=train.optimizer.eps,
            weight_decay=train.optimizer.weight_decay,
            optimizer=train.optimizer.name,
            momentum=train.optimizer.momentum,
            lora=None if train.lora is None else AdapterConfig(**dict(train.lora)),
            curriculum=None if train.data is None else train.data.model_dump(mode="json"),
        )
