"""Training options that need GPUs, or a ZeRO stage, and what a rank may hold of a GPU.

One idea: an option is refused where it would not do what its name says, and the reason is told.
"""
# MERGED What is known of model families: those whose samples may be packed.

from __future__ import annotations

from typing import Any, Final

from sweepft.spec.fields import MicroTokens
from sweepft.spec.partial import PartialSpec
from sweepft.spec.sections import Resources, Search, Train
from sweepft.spec.yaml_source import KeyPath

PACKABLE: Final = frozenset({"gpt_bigcode", "granite", "llama", "mistral", "qwen2", "qwen3"})


"""``model_type`` of each."""


def packing_note(train: Train, model_type: str | None) -> str | None:
    """What a person should know about packing this model: a sentence, or None."""
    if not isinstance(train.micro_batch, MicroTokens) or model_type in PACKABLE:
        return None
    return (
        f"train.micro_batch: samples of a {model_type} model are padded in groups of similar length, not packed; "
        f"packing is proved for {', '.join(sorted(PACKABLE))}"
    )


_OFFLOAD_STAGES: Final = {"none": (0, 1, 2, 3), "optimizer": (1, 2, 3), "optimizer_and_parameters": (3,)}


def check_hardware(partial: PartialSpec) -> None:
    """Add what options and resources do not allow each other."""
    train, resources = partial.train, partial.resources
    if resources is not None:
        _check_share(partial, resources)
    if train is None:
        return
    _check_offload_stage(partial, train)
    _check_compile(partial, train)
    if partial.search is not None:
        _check_adafactor(partial, train, partial.search)
    if resources is not None and resources.gpus_per_worker == 0:
        _check_gpu_only(partial, train)


def optimizers(train: Train, search: Search) -> list[tuple[KeyPath, Any]]:
    """Names of the optimizers that trials may have, with where they stand."""
    dimension = search.space.get("optimizer.name")
    if dimension is None:
        return [(("train", "optimizer", "name"), train.optimizer.name)]
    return [(("search", "space", "optimizer.name", *below), value) for below, value in dimension.examples()]


def _check_share(partial: PartialSpec, resources: Resources) -> None:
    each, path = resources.gpus_per_worker, ("resources", "gpus_per_worker")
    if each > 1:
        rule = "must be at most 1: a rank trains on one GPU"
        partial.add(path, rule, "use 1, and more resources.workers_per_trial", each)
    elif 0.5 < each < 1:
        rule = "leaves the rest of the GPU to nobody: a second rank does not fit beside it"
        partial.add(path, rule, "use 1, or 0.5 or less", each)
    elif 0 < each < 1 and resources.workers_per_trial > 1:
        rule = "must be 1 where a trial has several ranks: NCCL refuses two of its ranks on one GPU"
        partial.add(path, rule, "use 1, or resources.workers_per_trial: 1", each)


def _check_offload_stage(partial: PartialSpec, train: Train) -> None:
    stages = _OFFLOAD_STAGES[train.offload]
    if train.zero_stage not in stages:
        rule = f"{train.offload} needs zero_stage {' or '.join(map(str, stages))}"
        partial.add(
            ("train", "offload"), rule, f"set train.zero_stage: {stages[-1]}, or offload: none", train.offload
        )


def _check_compile(partial: PartialSpec, train: Train) -> None:
    if train.compile and train.zero_stage == 3:
        rule = "at zero_stage 3 layers gather their weights while they run, which breaks what is compiled into pieces"
        partial.add(("train", "compile"), rule, "set compile: false, or train.zero_stage: 2", train.compile)


def _check_adafactor(partial: PartialSpec, train: Train, search: Search) -> None:
    for path, name in optimizers(train, search):
        if name == "adafactor" and train.zero_stage > 0:
            rule = (
                f"adafactor needs zero_stage 0: at {train.zero_stage} the optimizer is shown flat pieces, "
                "not matrices, and nothing would be factored"
            )
            partial.add(
                path, rule, "set train.zero_stage: 0 and precision: fp32, or use adamw or adamw_8bit", name
            )
        if name == "adamw_8bit" and train.offload != "none":
            rule = "adamw_8bit steps where the model is, and train.offload takes the optimizer to main memory"
            partial.add(path, rule, "use adamw, or set train.offload: none", name)


def _check_gpu_only(partial: PartialSpec, train: Train) -> None:
    for name, value in (("offload", train.offload), ("liger", train.liger)):
        if value not in ("none", False):
            rule = "needs GPUs, and resources.gpus_per_worker is 0"
            partial.add(("train", name), rule, "set resources.gpus_per_worker: 1, or leave it out", value)
