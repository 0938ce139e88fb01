"""Write a trial's weights as a plain folder that ``transformers`` loads elsewhere, and read it back.

transformers names the weights in files, peft names and merges adapters. A folder gets its name only once their own
loaders have returned the trained weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from sweepft.data.weight_files import own_file
from sweepft.training.config import EngineConfig
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.exported_config import complete_config
from sweepft.training.lora import save_adapter, untie_adapted_output
from sweepft.training.model import load_base
from sweepft.training.quantized import copy_quantized
from sweepft.training.read_back import check_adapter, check_model, random_states_kept

ADAPTER = "adapter"
"""Folder of the adapter alone, within that of the merged weights."""
_PROCESSOR: Final = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def export(zero: ZeroEngine, folder: Path, tokenizer: Path) -> None:
    """Write model, tokenizer, chat template and generation config, atomically. Called on every rank.

    A trained adapter is merged into the model; a folder ``adapter`` holds it alone.

    Args:
        zero: The engine; at ZeRO-3 the trained weights are gathered on rank 0.
        folder: Folder to write; an existing one is replaced.
        tokenizer: Folder of the tokenizer as the trial used it.
    Raises:
        ExportMismatch: If the folder does not load with the trained weights; an existing one is left as it is.
    """
    weights = _all_weights(zero) if zero.lora is None else _trained_weights(zero)
    if dist.get_rank() == 0:
        assert weights is not None
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if zero.lora is None:
            zero.module.save_pretrained(temporary, state_dict=dict(weights))
            complete_config(temporary, zero.config, weights)
            check_model(temporary, weights, zero.config.trust_remote_code)
        else:
            _write_adapter(zero, weights, temporary, tokenizer)
        shutil.copytree(tokenizer, temporary, dirs_exist_ok=True)
        _copy_processor(zero.config, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    dist.barrier()


def _copy_processor(config: EngineConfig, folder: Path) -> None:
    """Copy the base model's files for images and sound, without which servers refuse a multimodal model."""
    from transformers import AutoConfig

    exported = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    if exported.get_text_config() is exported:  # the text part alone
        return
    for name in _PROCESSOR:
        found = own_file(config.model_path, config.revision, name)
        if found is not None:
            shutil.copyfile(found, folder / name)


def _write_adapter(zero: ZeroEngine, trained: dict[str, torch.Tensor], folder: Path, tokenizer: Path) -> None:
    """The adapter, and the model that plain peft makes of it and the base model's files.

    Over a quantized base, the adapter is merged into the weights that it was trained with, in the sweep's precision.
    """
    from peft import PeftModel

    adapter = folder / ADAPTER
    save_adapter(zero.module, trained, adapter)
    with random_states_kept(zero.device):
        base = load_base(zero.config)
        untie_adapted_output(base, adapter)
        if zero.config.quantize is not None:
            copy_quantized(zero.module, base)
        adapted = PeftModel.from_pretrained(base, str(adapter))
        check_adapter(adapter, adapted, zero.module, trained)
        merged = adapted.merge_and_unload()
    merged.save_pretrained(folder)
    complete_config(folder, zero.config, merged.state_dict())
    merged.generation_config.save_pretrained(
        adapter
    )  # peft's format has no place for the tokens that end an answer
    check_model(folder, merged.state_dict(), zero.config.trust_remote_code)
    if (
        zero.config.new_tokens
    ):  # with it, peft.AutoPeftModelForCausalLM adds the rows that the base model lacks
        shutil.copytree(tokenizer, adapter, dirs_exist_ok=True)


def _all_weights(zero: ZeroEngine) -> dict[str, torch.Tensor] | None:
    """Every weight of a model trained as a whole, on the CPU; at ZeRO-3 on rank 0 only.

    Names of one weight share one copy, by which ``save_pretrained`` writes it once.
    """
    if zero.config.zero_stage == 3:
        gathered: dict[str, Any] | None = zero.engine._zero3_consolidated_16bit_state_dict()
        return gathered
    copies: dict[Any, torch.Tensor] = {}
    weights = {}
    for name, tensor in zero.module.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        weights[name] = copies[place]
    return weights


def _trained_weights(zero: ZeroEngine) -> dict[str, torch.Tensor]:
    """The adapter's parameters by their names in memory, on the CPU."""
    import deepspeed

    trained = {name: p for name, p in zero.module.named_parameters() if p.requires_grad}
    with deepspeed.zero.GatheredParameters(list(trained.values()), enabled=zero.config.zero_stage == 3):
        return {name: p.detach().to("cpu", copy=True) for name, p in trained.items()}
