"""Use the model inside a live engine as a plain one: load kept weights into it, and run a forward pass for scoring.

Each rank copies its own share of the weights, so that loading needs no more GPU memory than training. For scoring,
ZeRO-3 gathers the weights once where they fit. The next trial's start restores the base weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from sweepft.errors import ExportMismatch
from sweepft.training.attention import DOCUMENTS
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.export import ADAPTER
from sweepft.training.lora import by_saved_name
from sweepft.training.read_back import load_exported, random_states_kept


@torch.no_grad()
def load_weights(zero: ZeroEngine, folder: Path) -> None:
    """Load the weights of an exported trial. Called on every rank, after ``start`` with its train config.

    transformers loads the folder on the CPU, mapped where its files hold weights as the model does, so that names and
    shapes in the files are its own affair. For a trial with adapters only the adapter is read; the base weights are
    the engine's own.

    Args:
        zero: Freshly started.
        folder: As ``sweepft.training.export`` wrote it.
    Raises:
        ExportMismatch: If the folder lacks a weight of the model or holds it in another shape.
    """
    trained = {name: p for name, p in zero.module.named_parameters() if p.requires_grad}
    source: Mapping[str, torch.Tensor]
    if zero.lora is None:
        source = dict(load_exported(folder, zero.config.trust_remote_code).named_parameters())
    else:
        source = load_file(folder / ADAPTER / "adapter_model.safetensors")
        trained = by_saved_name(zero.module, trained)
    if zero.config.zero_stage == 3:
        zero.engine.optimizer._partition_all_parameters()  # gathered copies would keep the old values
    for name, parameter in trained.items():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if name not in source or source[name].shape != shape:
            found = "is missing" if name not in source else f"has the shape {tuple(source[name].shape)}"
            raise ExportMismatch(
                f"{folder}: {name} {found}; the model needs {tuple(shape)}\n"
                "  the weights belong to another model or are damaged: remove the folder and train the trial again"
            )
        _fill(parameter, source[name])
    zero.gather_persistent()


@contextlib.contextmanager
def gathered_weights(zero: ZeroEngine) -> Iterator[bool]:
    """Keep all weights whole on every rank; yields whether they are. Called on every rank.

    At ZeRO-3 each forward pass would gather them again, for every token of an answer. Gathered once, a rank needs no
    other one, and the ranks share the items. Where a GPU lacks the memory, nothing is changed.
    """
    if zero.config.zero_stage < 3:
        yield True
        return
    parameters = list(zero.module.parameters())
    if not _fit(parameters, zero.device):
        yield False
        return
    import deepspeed

    optimizer = zero.engine.optimizer
    optimizer._partition_all_parameters()  # what a forward pass has left behind
    with _hooks_off(optimizer.parameter_offload), deepspeed.zero.GatheredParameters(parameters):
        yield True
    zero.gather_persistent()


def _fit(parameters: Sequence[Any], device: torch.device) -> bool:
    """Whether whole weights fit on every rank, with as much again for the buffers of gathering and for generating."""
    fits = torch.ones(1, device=device)
    if device.type == "cuda":
        size = sum(p.ds_numel * p.element_size() for p in parameters)
        free, _ = torch.cuda.mem_get_info(device)
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        fits.fill_(float(free + spare > 2.2 * size))
    dist.all_reduce(fits, op=dist.ReduceOp.MIN)
    return bool(fits.item())


@contextlib.contextmanager
def _hooks_off(offload: Any) -> Iterator[None]:
    """Without the hooks by which ZeRO-3 gathers and releases weights around each module, then as they were."""
    handles = [*offload.forward_hooks, *offload.backward_hooks, offload.fwd_pre_hook]
    found = [(handle.hooks_dict_ref(), handle.id) for handle in handles]
    hooks = {id(registered): registered for registered, _ in found if registered is not None}
    before = [(registered, dict(registered)) for registered in hooks.values()]
    for registered, name in found:
        if registered is not None:
            registered.pop(name, None)
    try:
        yield
    finally:
        for registered, were in before:
            registered.clear()
            registered.update(were)


@contextlib.contextmanager
def plain_model(zero: ZeroEngine) -> Iterator[Any]:
    """The transformers model for forward passes by other code: no dropout, transformers' own attention.

    At ZeRO-3 every rank must make the same calls, unless in a block of `gathered_weights`. Random states, training mode
    and attention are restored on exit.
    """
    packed = zero.layout.kind == "packed"
    module = zero.module if zero.lora is None else zero.module.get_base_model()
    modes = [(m, m.training) for m in zero.module.modules()]
    with random_states_kept(zero.device), torch.no_grad(), _own_linear():
        zero.eval()
        if packed:
            module.set_attn_implementation(zero.padded_attention)
        try:
            yield module
        finally:
            if packed:
                module.set_attn_implementation(DOCUMENTS)
            zero.train()
            for part, training in modes:
                part.training = training


@contextlib.contextmanager
def _own_linear() -> Iterator[None]:
    """With torch's own linear layers. DeepSpeed replaces them at ZeRO-3 by a function that gathers weights again in the
    backward pass; in forward passes it only costs a Python call of 0.1 ms a layer.
    """
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses as Replaced

    before = torch.nn.functional.linear
    torch.nn.functional.linear = getattr(Replaced, "linear_bk", None) or before
    try:
        yield
    finally:
        torch.nn.functional.linear = before


def _fill(parameter: torch.Tensor, tensor: torch.Tensor) -> None:
    shard = getattr(parameter, "ds_tensor", None)
    if shard is None:
        parameter.data.copy_(tensor)
        return
    # ZeRO-3: this rank's share of the flat weight; the last rank's may end in padding.
    flat, size = tensor.reshape(-1), shard.numel()
    start = dist.get_rank() * size
    mine = flat[start : start + size]
    shard.view(-1)[: mine.numel()].copy_(mine)
