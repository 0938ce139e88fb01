"""Memory of one rank, by ZeRO stage and number of ranks.

One idea: states follow DeepSpeed's own estimators (``estimate_zero2_model_states_mem_needs`` and its fellow for
ZeRO-3), which a test compares; what autograd keeps for the backward pass is counted tensor by tensor, and a
test compares that with a real forward pass. Both err on the high side where a kernel may save more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

from sweepft.plan.model_shape import ModelShape

GIB: Final = 2**30
_MOMENTS: Final = {"adamw": 8, "adamw_8bit": 2, "sgd": 4, "adafactor": 0}
"""Bytes of a parameter's moments; what Adafactor keeps of a matrix are two vectors."""


_LARGEST_BUCKET: Final = 500_000_000  # elements; the engine takes the model's size where that is less
_LOGIT_BYTES: Final = (
    12  # of every logit as if each were learned: itself, fp32 copy, log-softmax or gradients
)


_GPU_RESERVE: Final = 1 * GIB  # CUDA context, NCCL, fragments
_CPU_PROCESS: Final = int(0.6 * GIB)  # a rank after its imports: python, torch, transformers, deepspeed


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank at its peak, by what holds them.

    Attributes:
        states: Weights, gradients, fp32 masters and the optimizer's moments, as far as this rank holds them.
        buckets: Communication buffer.
        activations: What the backward pass needs of one micro-batch.
        logits: Next-token logits of one micro-batch and what cross-entropy makes of them.
        process: The process itself: CUDA context on a GPU; libraries and the mapped base weights on a CPU.
        host: What is offloaded to main memory; not part of the total.
    """

    states: int
    buckets: int
    activations: int
    logits: int
    process: int
    host: int = 0

    @property
    def total(self) -> int:
        """All of it but what is offloaded, in bytes."""
        return int(sum(asdict(self).values())) - self.host


def model_states(
    shape: ModelShape,
    stage: int,
    precision: str,
    ranks: int,
    lora_rank: int = 0,
    optimizer: str = "adamw",
    offload: str = "none",
) -> int:
    """Bytes of weights, gradients, masters and moments that one rank holds on its GPU (on a CPU: at all).

    With 16-bit weights stages 2 and 3 are DeepSpeed's estimate: 2P + 18P/N, and 4 x the largest layer + 18P/N;
    offloaded 2P, 4 x the largest layer + 2P/N, and with the parameters 4 x the largest layer. Stage 1 keeps whole
    gradients beside its weights: 4P + 16P/N. With fp32 weights, weight and gradient count 4 bytes each; stage 0 then is
    plain AdamW, 16P. Other optimizers have other moments. With adapters P is frozen, and what is trained is theirs.
    """
    weight, p = (2 if precision == "bf16" else 4), shape.parameters
    hosted = offload == "optimizer_and_parameters" and stage == 3
    if lora_rank:
        frozen = weight * p
        if stage == 3:
            frozen = (0 if hosted else frozen // ranks) + 2 * weight * shape.largest_layer
        adapter = replace(shape, parameters=trained_parameters(shape, lora_rank), largest_layer=0)
        return frozen + model_states(adapter, stage, precision, ranks, 0, optimizer, offload)
    masters = 4 + 4 + _MOMENTS[optimizer]  # fp32 gradient, master, moments
    if stage == 0:
        return (8 + _MOMENTS[optimizer] if precision == "fp32" else 2 * weight + masters) * p
    offloaded = offload != "none"
    if stage == 1:
        return 2 * weight * p + (0 if offloaded else masters * p // ranks)
    if stage == 2:
        return weight * p + (0 if offloaded else (weight + masters) * p // ranks)
    kept = 0 if hosted else weight if offloaded else weight + masters
    return 2 * weight * shape.largest_layer + kept * p // ranks


def host_states(shape: ModelShape, stage: int, ranks: int, lora_rank: int = 0, offload: str = "none") -> int:
    """Bytes of main memory that one rank's share of offloaded states takes: DeepSpeed's estimate for one node, with its
    half as much again for buffers; 16-bit weights and two moments.
    """
    if offload == "none" or stage == 0:
        return 0
    p = trained_parameters(shape, lora_rank)
    whole = offload == "optimizer_and_parameters" and stage == 3
    each = max(4 * ranks, 16) if stage < 3 else 18 if whole else 16
    frozen = 2 * shape.parameters if lora_rank and whole else 0
    return int((p * each * 1.5 + frozen) / ranks)


def rank_memory(
    shape: ModelShape,
    *,
    stage: int,
    precision: str,
    ranks: int,
    rows: int,
    tokens: int,
    checkpointing: bool,
    gpu: bool,
    lora_rank: int = 0,
    optimizer: str = "adamw",
    offload: str = "none",
) -> RankMemory:
    """Memory of one rank at its peak.

    Args:
        shape: Of the model.
        stage: ZeRO stage.
        precision: ``fp32`` or ``bf16``.
        ranks: World size.
        rows: Of a micro-batch.
        tokens: Of its longest row; the others are padded to it.
        checkpointing: Whether activations are computed again in the backward pass.
        gpu: Whether ranks are on GPUs.
        lora_rank: Rank of adapters on all linear layers; 0 where all weights are trained.
        optimizer: Its name in the spec.
        offload: As in the spec.
    """
    weight = 2 if precision == "bf16" else 4
    block = _block_bytes(shape, weight, tokens)
    kept = shape.layers * weight * shape.hidden + block if checkpointing else shape.layers * block
    final_norm = (4 + 2 * weight) * shape.hidden
    bucket = 0 if stage == 0 else weight * min(_LARGEST_BUCKET, shape.parameters)
    return RankMemory(
        states=model_states(shape, stage, precision, ranks, lora_rank, optimizer, offload),
        buckets=bucket,
        activations=rows * tokens * (kept + final_norm),
        logits=rows * tokens * shape.vocab * _LOGIT_BYTES,
        process=_GPU_RESERVE
        if gpu
        else _CPU_PROCESS + weight * shape.parameters // (ranks if stage == 3 else 1),
        host=host_states(shape, stage, ranks, lora_rank, offload),
    )


def trained_parameters(shape: ModelShape, lora_rank: int) -> int:
    """All, or those of adapters on a block's four attention and three feed-forward matrices."""
    if not lora_rank:
        return shape.parameters
    both_ends = 4 * (shape.hidden + shape.attention) + 3 * (shape.hidden + shape.intermediate)
    return shape.layers * lora_rank * both_ends


def _block_bytes(shape: ModelShape, weight: int, tokens: int) -> int:
    """Bytes that autograd keeps of one token in one Llama-like block, attention fused (SDPA), a mask for padding.

    An RMSNorm computes in fp32 and keeps its input, its scale and its normalised output; what it gives is kept as input
    of the products after it. Kept are also queries, keys and values (repeated to all heads), the attention's output,
    log-sum and mask row, and the four tensors of the gated feed-forward part.
    """
    norm = (4 + weight) * shape.hidden + 4 + weight * shape.hidden
    attention = 4 * weight * shape.attention + 4 * shape.heads + weight * tokens
    return 2 * norm + attention + 4 * weight * shape.intermediate
