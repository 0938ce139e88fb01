"""Write a trial's weights as a plain folder that ``transformers`` loads elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.lora import save_adapter, split


def export(zero: ZeroEngine, folder: Path, tokenizer: Path) -> None:
    """Write model, tokenizer, chat template and generation config, atomically. Called on every rank.

    A trained adapter is merged into the model; a folder ``adapter`` holds it alone.

    Args:
        zero: The engine; at ZeRO-3 its weights are gathered on rank 0.
        folder: Folder to write; an existing one is replaced.
        tokenizer: Folder of the tokenizer as the trial used it.
    """
    state = _weights(zero)
    if dist.get_rank() == 0:
        assert state is not None
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if zero.lora is None:
            zero.module.save_pretrained(temporary, state_dict=state)
        else:
            merged, adapter = split(zero.module, state, zero.lora)
            zero.module.get_base_model().save_pretrained(temporary, state_dict=merged)
            save_adapter(zero.module, adapter, temporary / "adapter")
        shutil.copytree(tokenizer, temporary, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    dist.barrier()


def _weights(zero: ZeroEngine) -> dict[str, Any] | None:
    if zero.config.zero_stage == 3:
        gathered: dict[str, Any] | None = zero.engine._zero3_consolidated_16bit_state_dict()
        return gathered
    return {name: t.detach().to("cpu", copy=True) for name, t in zero.module.state_dict().items()}
