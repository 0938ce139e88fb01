"""Memory of one rank, by ZeRO stage and number of ranks.

Model states follow DeepSpeed's estimators (``estimate_zero2_model_states_mem_needs`` and its ZeRO-3 counterpart).
Activations are counted tensor by tensor as autograd stores them. Tests compare the former with DeepSpeed and the latter
with a real forward pass; fused kernels may need less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from sweepft.plan.model_shape import ModelShape

GIB: Final = 2**30
_MOMENTS: Final = {"adamw": 8, "adamw_8bit": 2, "sgd": 4, "adafactor": 0}
"""Bytes per parameter of an optimizer's moments; Adafactor stores two vectors per matrix, which are neglected."""

_LARGEST_BUCKET: Final = 500_000_000  # elements; the engine uses the number of gradients if that is smaller
_LOGIT_BYTES: Final = 12  # per logit: the logit, its fp32 copy, log-softmax or gradient
_MAX_LIVE: Final = (
    1_000_000_000  # parameters that ZeRO-3 keeps gathered (DeepSpeed's stage3_max_live_parameters)
)
_CONTEXT: Final = GIB // 2  # CUDA context, kernels
_COMMUNICATOR: Final = int(0.6 * GIB)  # of NCCL, outside torch's memory; DeepSpeed uses two of them
_FRAGMENTS: Final = 0.03  # of everything else, with memory segments that grow
_NF4: Final = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # bytes a weight: 4 bits, an 8-bit scale of 64, a 32-bit one of 256 of them
_CPU_PROCESS: Final = int(0.6 * GIB)  # a rank after importing torch, transformers and deepspeed


@dataclass(frozen=True)
class RankMemory:
    """Peak memory of one rank in bytes, by kind.

    Attributes:
        states: This rank's share of weights, gradients, fp32 master weights and optimizer moments.
        gathered: Weights held beside the states for a moment: what ZeRO-3 gathers beyond the largest layer, or a layer
            of a 4-bit base in 16 bits.
        buckets: Communication buffers.
        activations: Activations of one micro-batch stored for the backward pass.
        logits: Logits of one micro-batch and the intermediate results of the loss.
        process: The process: CUDA context, NCCL and fragments on a GPU; libraries and mapped base weights on a CPU.
        kept: The copy of the weights at a trial's best evaluation, on a CPU; beside GPUs it is in ``host``.
        host: What a rank on a GPU has in main memory: what is offloaded, and that copy; not part of the total.
    """

    states: int
    buckets: int
    activations: int
    logits: int
    process: int
    gathered: int = 0
    kept: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """Total bytes without what is offloaded."""
        return int(sum(asdict(self).values())) - self.host


def model_states(
    shape: ModelShape,
    stage: int,
    precision: str,
    ranks: int,
    lora_rank: int = 0,
    optimizer: str = "adamw",
    offload: str = "none",
    quantized: bool = False,
    saved: Sequence[str] = (),
) -> int:
    """Bytes of weights, gradients, master weights and moments that one rank holds on its GPU (or CPU).

    For 16-bit weights, P parameters and N ranks, stages 2 and 3 are DeepSpeed's estimate: 2P + 18P/N, and 4 x the
    largest layer + 18P/N. With offloading: 2P; 4 x the largest layer + 2P/N; and, if parameters are offloaded too,
    4 x the largest layer. Stage 1 stores full gradients and weights: 4P + 16P/N. With fp32 weights, a weight and a
    gradient take 4 bytes each; stage 0 is then plain AdamW, 16P. With adapters, only their parameters and the layers
    in ``saved``, which are trained whole, have gradients, master weights and moments; for ``quantized`` see
    `base_bytes`.
    """
    weight, p = (2 if precision == "bf16" else 4), shape.parameters
    hosted = offload == "optimizer_and_parameters" and stage == 3
    if lora_rank:
        frozen = base_bytes(shape, precision, quantized)
        if stage == 3:
            frozen = (0 if hosted else frozen // ranks) + 2 * weight * shape.largest_layer
        adapter = replace(shape, parameters=trained_parameters(shape, lora_rank, saved), largest_layer=0)
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


def base_bytes(shape: ModelShape, precision: str, quantized: bool) -> int:
    """Bytes of the base model's weights: in the sweep's precision, or linear layers in NF4 with double quantization.

    Embeddings and the output layer are not quantized; vectors, which are not either, are neglected.
    """
    weight = 2 if precision == "bf16" else 4
    if not quantized:
        return weight * shape.parameters
    return weight * shape.embeddings + round(_NF4 * (shape.parameters - shape.embeddings))


def host_states(
    shape: ModelShape,
    stage: int,
    ranks: int,
    lora_rank: int = 0,
    offload: str = "none",
    saved: Sequence[str] = (),
) -> int:
    """Bytes of main memory for one rank's share of offloaded states, with 16-bit weights and two moments.

    fp32 gradient, master and moments, and a pinned 16-bit gradient (or weight, where parameters are offloaded): 18
    bytes a parameter, divided among the ranks. DeepSpeed's own estimate has whole gradients on each rank, and 50%
    more.
    """
    if offload == "none" or stage == 0:
        return 0
    whole = offload == "optimizer_and_parameters" and stage == 3
    frozen = 2 * shape.parameters if lora_rank and whole else 0
    return (18 * trained_parameters(shape, lora_rank, saved) + frozen) // ranks


def best_weights_bytes(
    shape: ModelShape, stage: int, precision: str, ranks: int, lora_rank: int = 0, saved: Sequence[str] = ()
) -> int:
    """Bytes of main memory that a rank takes for the weights at a trial's best evaluation, at most: one copy of the
    trained weights a slot, on its first rank, or at ZeRO-3 in shards.
    """
    weight = 2 if precision == "bf16" else 4
    return weight * trained_parameters(shape, lora_rank, saved) // (ranks if stage == 3 else 1)


def checkpoint_bytes(shape: ModelShape, lora_rank: int = 0, saved: Sequence[str] = ()) -> int:
    """Bytes of a trial's checkpoint: fp32 weights and two moments. Ranks copy their shares of it to main memory."""
    return 12 * trained_parameters(shape, lora_rank, saved)


def loading_bytes(
    shape: ModelShape, stage: int, precision: str, ranks_on_node: int, quantized: bool = False
) -> int:
    """Bytes of a node's main memory while its ranks load the model: each a copy, at ZeRO-3 one rank alone.

    A model to be quantized goes to the GPU weight by weight.
    """
    weight = 2 if precision == "bf16" else 4
    if quantized:
        return weight * shape.largest_layer * ranks_on_node
    return weight * shape.parameters * (1 if stage == 3 else ranks_on_node)


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
    lora_targets: Sequence[str] | None = None,
    lora_dropout: bool = False,
    quantized: bool = False,
    saved: Sequence[str] = (),
    at_best: bool = False,
) -> RankMemory:
    """Peak memory of one rank.

    Args:
        shape: Size of the model.
        stage: ZeRO stage.
        precision: ``fp32`` or ``bf16``.
        ranks: World size.
        rows: Rows of a micro-batch.
        tokens: Tokens of its longest row, to which the others are padded.
        checkpointing: Whether activations are recomputed in the backward pass.
        gpu: Whether ranks run on GPUs.
        lora_rank: Rank of adapters on all linear layers; 0 if all weights are trained.
        optimizer: As in the spec.
        offload: As in the spec.
        lora_targets: Names of the layers that get adapters; None for all linear layers.
        lora_dropout: Whether adapters drop out parts of their input.
        quantized: Whether the base under adapters is in 4 bits.
        saved: Names of layers trained whole beside adapters.
        at_best: Whether the weights of a trial's best evaluation are kept.
    """
    weight = 2 if precision == "bf16" else 4
    best = best_weights_bytes(shape, stage, precision, ranks, lora_rank, saved) if at_best else 0
    block = _block_bytes(shape, weight, tokens)
    if lora_rank and lora_dropout:  # peft keeps a dropped copy of each target's input, and its mask
        block += (weight + 1) * _target_inputs(shape, lora_targets)
    kept = shape.layers * weight * shape.hidden + block if checkpointing else shape.layers * block
    final_norm = (4 + 2 * weight) * shape.hidden
    # a bucket is filled while another one is reduced; at ZeRO-3 it is flattened into a copy
    sent = shape.parameters if stage == 3 else trained_parameters(shape, lora_rank, saved)
    buckets = 0 if stage == 0 else 2 * weight * min(_LARGEST_BUCKET, sent)
    gathered = 0
    if stage == 3 and ranks > 1:
        gathered = max(0, weight * (min(_MAX_LIVE, shape.parameters) - 2 * shape.largest_layer))
    if quantized:
        gathered = weight * max(shape.hidden * shape.intermediate, shape.hidden * shape.attention)
    base = base_bytes(shape, precision, quantized)
    found = RankMemory(
        states=model_states(shape, stage, precision, ranks, lora_rank, optimizer, offload, quantized, saved),
        gathered=gathered,
        buckets=buckets,
        activations=rows * tokens * (kept + final_norm),
        logits=rows * tokens * shape.vocab * _LOGIT_BYTES,
        process=0 if gpu else _CPU_PROCESS + base // (ranks if stage == 3 else 1),
        kept=0 if gpu else best,
        host=host_states(shape, stage, ranks, lora_rank, offload, saved) + (best if gpu else 0),
    )
    if not gpu:
        return found
    outside = _CONTEXT + (2 * _COMMUNICATOR if ranks > 1 else 0)
    return replace(found, process=outside + int(_FRAGMENTS * found.total))


def trained_parameters(shape: ModelShape, lora_rank: int, saved: Sequence[str] = ()) -> int:
    """All parameters, or those of adapters on the four attention and three feed-forward matrices of each block.

    Layers that are trained whole beside adapters (``saved``) are added by the usual names of matrices; others, such as
    norms, are small.
    """
    if not lora_rank:
        return shape.parameters
    both_ends = 4 * (shape.hidden + shape.attention) + 3 * (shape.hidden + shape.intermediate)
    last = [name.rpartition(".")[2] for name in saved]
    ends = min(
        shape.embeddings, shape.vocab * shape.hidden * len({"embed_tokens", "lm_head"}.intersection(last))
    )
    square = sum(name in ("q_proj", "k_proj", "v_proj", "o_proj") for name in last)
    wide = sum(name in ("gate_proj", "up_proj", "down_proj") for name in last) + 3 * ("mlp" in last)
    blocks = shape.layers * shape.hidden * (square * shape.attention + wide * shape.intermediate)
    return shape.layers * lora_rank * both_ends + ends + blocks


def _target_inputs(shape: ModelShape, targets: Sequence[str] | None) -> int:
    """Width of the inputs of a block's adapted layers, added up."""
    inputs = dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), shape.hidden)
    inputs |= {"o_proj": shape.attention, "down_proj": shape.intermediate}
    return sum(inputs.values() if targets is None else (inputs.get(name, shape.hidden) for name in targets))


def _block_bytes(shape: ModelShape, weight: int, tokens: int) -> int:
    """Bytes that autograd stores per token in one Llama-like block with fused attention (SDPA) and a padding mask.

    RMSNorm computes in fp32 and stores its input, scale and normalised output; its result is stored as the input of the
    following products. Also stored: queries, keys and values (repeated to all heads), the output, log-sum and mask row
    of the attention, and four tensors of the gated feed-forward layer.
    """
    norm = (4 + weight) * shape.hidden + 4 + weight * shape.hidden
    attention = 4 * weight * shape.attention + 4 * shape.heads + weight * tokens
    return 2 * norm + attention + 4 * weight * shape.intermediate
