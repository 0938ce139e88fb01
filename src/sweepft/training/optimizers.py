"""The optimizers a trial may use: build, set the next trial's constants, reset in place, save and load.

An optimizer state holds tensors and plain numbers. For the names in ``ZEROED_IS_FRESH``, zeroing all of them equals a
fresh optimizer (``tests/unit/training/test_warm_equals_cold.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sweepft.extras import import_error
from sweepft.spec import Optimizer

ZEROED_IS_FRESH = frozenset({"adamw", "adafactor", "sgd"})
"""Optimizers whose zeroed state equals a fresh one; for others the engine is built again."""


def make_optimizer(groups: list[dict[str, Any]], optimizer: Optimizer, fused: bool) -> torch.optim.Optimizer:
    """The trial's optimizer over parameter groups, each with its ``weight_decay``.

    Args:
        groups: From ``sweepft.training.model.parameter_groups``.
        optimizer: Name and constants.
        fused: Whether to step all parameters in one kernel, where the optimizer has one.
    Raises:
        ImportError: If the 8-bit optimizer's package is not installed.
    """
    groups = [
        group | _constants(optimizer) | {"lr": 0.0} for group in groups
    ]  # ZeroEngine.step sets the rate
    if optimizer.name == "adamw":
        return torch.optim.AdamW(groups, fused=fused)
    if optimizer.name == "sgd":
        return torch.optim.SGD(groups, fused=fused)
    if optimizer.name == "adafactor":
        from transformers.optimization import Adafactor

        # The learning rate as given, not scaled by a weight's size or by the step.
        factored: torch.optim.Optimizer = Adafactor(groups, scale_parameter=False, relative_step=False)
        return factored
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise import_error("bitsandbytes", "train.optimizer.name adamw_8bit") from error
    eight_bit: torch.optim.Optimizer = AdamW8bit(groups)
    return eight_bit


def set_constants(torch_optimizer: torch.optim.Optimizer, optimizer: Optimizer) -> None:
    """Set the next trial's constants in an optimizer of the same name; vectors keep a weight decay of 0."""
    groups = torch_optimizer.param_groups
    decays = (optimizer.weight_decay, 0.0) if len(groups) == 2 else (optimizer.weight_decay,)
    for group, decay in zip(groups, decays, strict=True):
        group.update(_constants(optimizer), weight_decay=decay)


def zero_state(states: Iterable[dict[str, Any]]) -> None:
    """Zero optimizer states in place, so that other references to their tensors stay valid."""
    for state in states:
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                value.zero_()
            else:
                state[name] = type(value)(0)


def state_to_tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """One parameter's state as tensors; plain numbers become 64-bit 0-d tensors."""
    return {name: _as_tensor(value) for name, value in state.items() if value is not None}


def state_from_tensors(saved: Mapping[str, torch.Tensor], parameter: torch.Tensor) -> dict[str, Any]:
    """Inverse of ``state_to_tensors``, on the parameter's device."""
    return {
        name: value.item()
        if value.dim() == 0 and value.dtype in _NUMBERS
        else value.to(parameter.device, copy=True)
        for name, value in saved.items()
    }


_NUMBERS = (torch.int64, torch.float64)


def _as_tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _constants(optimizer: Optimizer) -> dict[str, Any]:
    if optimizer.name == "sgd":
        return {"momentum": optimizer.momentum}
    if optimizer.name == "adafactor":
        return {}
    if optimizer.beta2_half_life is not None:
        raise ValueError(
            "beta2_half_life is not converted to betas, for which the tokens of a step must be known"
        )
    return {"betas": optimizer.betas, "eps": optimizer.eps}
