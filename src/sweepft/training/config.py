"""What all trials of a sweep share on a rank, as plain data: other packages build it without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


def deepspeed_offload(offload: str) -> dict[str, Any]:
    """Keys of DeepSpeed's ``zero_optimization`` that offload the optimizer, or the parameters too, to main memory."""
    host = {"device": "cpu", "pin_memory": True}
    named = {
        "none": (),
        "optimizer": ("offload_optimizer",),
        "optimizer_and_parameters": ("offload_optimizer", "offload_param"),
    }
    return {key: dict(host) for key in named[offload]}


def overlaps_reduction(zero_stage: int, offload: str, device: str, ranks: int) -> bool | None:
    """``overlap_comm`` of DeepSpeed: whether gradients are reduced on a stream of their own during the backward pass.

    DeepSpeed waits for that stream and drops its buffers at the end of each backward pass, so that a reset finds
    nothing of the trial before.

    Returns:
        None where DeepSpeed's own default applies: on at stage 3, off where gradients are offloaded.
    """
    if zero_stage not in (1, 2) or offload != "none":
        return None
    return device == "cuda" and ranks > 1


@dataclass(frozen=True)
class ValidationSet:
    """A validation set: its name, token cache and weight in the objective."""

    name: str
    cache: str
    weight: float


@dataclass(frozen=True)
class EngineConfig:
    """What all trials of a sweep share; what differs between trials is their ``TrainConfig``.

    Attributes:
        model_path: Local folder or hub id of the base model.
        vocab_size: Tokens of the tokenizer; embeddings are extended where the model has fewer.
        pad_id: Token that fills padded rows.
        end_ids: Tokens that end an answer, the end of a turn first.
        new_tokens: Ids of tokens that rows may hold and the base model has never seen; adapters train their embeddings.
        train_cache: Folder of the tokenised training data (``sweepft.data``).
        validation: Validation sets: of the objective (weights above zero), and reported only (weight 0).
        budget_samples: Samples every trial sees.
        rungs: Fractions of the budget at which validation loss is computed.
        micro_batch: Rows of a forward pass on a rank, or tokens where samples are packed; 0: found by a probe.
        packed: Whether samples are packed into rows without padding.
        largest_batch: The largest global batch of the sweep.
        precision: ``fp32`` or ``bf16``.
        zero_stage: DeepSpeed ZeRO stage, 0-3.
        scratch: Folder on this node for the base weights that the ranks share.
        threads: CPU threads of a rank.
        longest: Tokens of the longest training row.
        offload: What is kept in main memory instead of the GPU's (see ``sweepft.spec.Train``).
        liger: Whether Liger's kernels replace the model's own; ``auto``: where they run and give the same losses.
        allow_pickle: Names of pickle files with the model's weights that may be loaded.
        compiled: Whether ``torch.compile`` runs the model.
        quantize: Number format of frozen linear layers under adapters (``nf4``); None for that of the sweep.
        kept_whole: Names of layers that are trained whole beside adapters, and therefore not quantized.
    """

    model_path: str
    train_cache: str
    budget_samples: int
    micro_batch: int
    scratch: str
    revision: str | None = None
    trust_remote_code: bool = False
    vocab_size: int = 0
    new_tokens: tuple[int, ...] = ()
    pad_id: int = 0
    end_ids: tuple[int, ...] = ()
    validation: tuple[ValidationSet, ...] = ()
    rungs: tuple[float, ...] = ()
    precision: str = "fp32"
    zero_stage: int = 2
    threads: int = 1
    longest: int = 0
    packed: bool = False
    largest_batch: int = 1
    offload: str = "none"
    liger: bool | Literal["auto"] = False
    allow_pickle: tuple[str, ...] = ()
    compiled: bool = False
    quantize: str | None = None
    kept_whole: tuple[str, ...] = ()

    @property
    def least_micro_batch(self) -> int:
        """The smallest micro-batch: one sample."""
        return self.longest if self.packed else 1
