"""Checks of training options against GPUs, ZeRO stage and optimizer, and the model families that can be packed."""

from __future__ import annotations

from typing import Final

from sweepft.spec.fields import MicroTokens
from sweepft.spec.partial import PartialSpec
from sweepft.spec.sections import Resources, Search, Train

PACKABLE: Final = frozenset({"gpt_bigcode", "granite", "llama", "mistral", "qwen2", "qwen3"})
"""``model_type`` of the families for which packed and padded losses are known to agree."""


def packing_note(train: Train, model_type: str | None) -> str | None:
    """A note if samples of this model are padded although ``micro_batch`` asks for packing, else None."""
    if not isinstance(train.micro_batch, MicroTokens) or model_type in PACKABLE:
        return None
    return (
        f"train.micro_batch: samples of a {model_type} model are padded in groups of similar length, not packed; "
        f"packing is supported for {', '.join(sorted(PACKABLE))}"
    )


_OFFLOAD_STAGES: Final = {"none": (0, 1, 2, 3), "optimizer": (1, 2, 3), "optimizer_and_parameters": (3,)}


def check_hardware(partial: PartialSpec) -> None:
    """Report options that exclude each other or do not fit the resources."""
    train, resources = partial.train, partial.resources
    if resources is not None:
        _check_share(partial, resources)
    if train is None:
        return
    _check_offload_stage(partial, train)
    _check_compile(partial, train)
    _check_adapters(partial, train)
    if partial.search is not None:
        _check_adafactor(partial, train, partial.search)
        _check_whole_adapters(partial, partial.search)
    if resources is not None and resources.gpus_per_worker == 0:
        _check_gpu_only(partial, train)


def _check_share(partial: PartialSpec, resources: Resources) -> None:
    each, path = resources.gpus_per_worker, ("resources", "gpus_per_worker")
    if each > 1:
        rule = "must be at most 1: a rank trains on one GPU"
        partial.add(path, rule, "use 1, and more resources.workers_per_trial", each)
    elif 0.5 < each < 1:
        rule = "wastes GPU: fractions in (0.5, 1) cannot be shared"
        partial.add(path, rule, "use 1, or at most 0.5", each)
    elif 0 < each < 1 and resources.workers_per_trial > 1:
        rule = "must be 1 for trials of several ranks: NCCL does not allow two of them on one GPU"
        partial.add(path, rule, "use 1, or resources.workers_per_trial: 1", each)


def _check_offload_stage(partial: PartialSpec, train: Train) -> None:
    stages = _OFFLOAD_STAGES[train.offload]
    if train.zero_stage not in stages:
        rule = f"{train.offload} requires zero_stage {' or '.join(map(str, stages))}"
        partial.add(
            ("train", "offload"), rule, f"set train.zero_stage: {stages[-1]}, or offload: none", train.offload
        )


def _check_compile(partial: PartialSpec, train: Train) -> None:
    if train.compile and train.zero_stage == 3:
        rule = (
            "is not available at zero_stage 3: gathering the weights of each layer breaks the compiled graph"
        )
        partial.add(("train", "compile"), rule, "set compile: false, or train.zero_stage: 2", train.compile)


def _check_adapters(partial: PartialSpec, train: Train) -> None:
    lora, stage = train.lora, train.zero_stage
    if lora is None or stage < 3:
        return
    if lora.quantize is not None:
        rule = "is not available at zero_stage 3, which would partition 4-bit weights without their scales"
        remedy = "set train.zero_stage: 2; the 4-bit base takes a quarter of the memory on each rank"
        partial.add(("train", "lora", "quantize"), rule, remedy, lora.quantize)
    if lora.modules_to_save:
        rule = "is not available at zero_stage 3, which partitions the weights that would be copied"
        remedy = "set train.zero_stage: 2, or train all weights (remove train.lora)"
        partial.add(("train", "lora", "modules_to_save"), rule, remedy, list(lora.modules_to_save))


def _check_whole_adapters(partial: PartialSpec, search: Search) -> None:
    """What the base model has to be loaded for is the same for all trials, also where `lora` is swept as a whole."""
    for path, value in search.candidates("lora", None):
        for name in ("quantize", "modules_to_save") if isinstance(value, dict) else ():
            if value.get(name):
                rule = "is the same for every trial and cannot be swept"
                remedy = f"set train.lora.{name}, and sweep other keys of lora, e.g. lora.rank"
                partial.add((*path, name), rule, remedy, value[name])


def _check_adafactor(partial: PartialSpec, train: Train, search: Search) -> None:
    for path, name in search.candidates("optimizer.name", train.optimizer.name):
        if name == "adafactor" and train.zero_stage > 0:
            rule = (
                f"adafactor requires zero_stage 0: at zero_stage {train.zero_stage} parameters are flattened, "
                "so there are no matrices to factor"
            )
            partial.add(
                path, rule, "set train.zero_stage: 0 and precision: fp32, or use adamw or adamw_8bit", name
            )
        if name == "adamw_8bit" and train.offload != "none":
            rule = "adamw_8bit runs on the GPU and cannot be combined with train.offload"
            partial.add(path, rule, "use adamw, or set train.offload: none", name)


def _check_gpu_only(partial: PartialSpec, train: Train) -> None:
    for name, value in (("offload", train.offload), ("liger", train.liger)):
        if value not in ("none", "auto", False):
            rule = "requires GPUs, but resources.gpus_per_worker is 0"
            partial.add(("train", name), rule, "set resources.gpus_per_worker: 1, or remove the key", value)
