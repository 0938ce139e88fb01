"""A ZeRO-3 engine that is done with gives its memory back.

The idea to keep in mind: its objects stay for the life of the process, for DeepSpeed's closures on the parameters lead
to the engine, and autograd leads to them where Python's collector does not see it. What can be had back are tensors.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["let_go"]


def let_go(engine: Any) -> None:
    """Take all tensors out of a destroyed DeepSpeed engine of stage 3, model included.

    Frozen weights on a CPU stay: they are mapped from a file that all slots of the node share, and cost nothing.
    """
    from deepspeed.runtime.zero import parameter_offload

    parameter_offload.FWD_MODULE_STACK.clear()
    for parameter in engine.module.parameters():
        if parameter.device.type == "cpu" and not parameter.requires_grad:
            continue
        parameter.ds_tensor = parameter.grad = None
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    inner = engine.optimizer.optimizer
    inner.state.clear()
    inner.param_groups.clear()
    vars(engine.optimizer).clear()
    engine.optimizer = None
