"""The product of the output layer with a vocabulary padded to a multiple of 64.

Matrix units of GPUs work on sizes that are multiples of 8; with a vocabulary such as 32,001 or 50,257 the kernels for
other sizes are taken, which are slower. Only the product is padded, by rows of zeros that are cut off again. Weights,
optimizer states, checkpoints and exports know nothing of them, and no row can be a target or be generated.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, Final

import torch
import torch.nn.functional as F

_UNIT: Final = 8
"""Elements of a size for which aligned kernels exist, in 16 bits."""

_MULTIPLE: Final = 64

_FEWEST_ROWS: Final = 256
"""Below this, copying the weights costs more than the faster product saves."""


def pads_vocabulary(device: torch.device) -> bool:
    """Whether padding pays on a device."""
    return device.type == "cuda"


def pad_output_layer(model: Any) -> bool:
    """Pad the output layer's product in training passes, where the vocabulary is no multiple of 8.

    Args:
        model: A transformers model without adapters; its output layer is changed in place.

    Returns:
        Whether it was changed.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or layer.out_features % _UNIT == 0:
        return False
    vars(layer)["forward"] = MethodType(_forward, layer)
    return True


def _forward(layer: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """Logits, shape (..., vocabulary)."""
    if not torch.is_grad_enabled() or hidden.numel() // hidden.shape[-1] < _FEWEST_ROWS:
        return F.linear(hidden, layer.weight, layer.bias)
    padded = F.pad(layer.weight, (0, 0, 0, -layer.out_features % _MULTIPLE))
    logits = F.linear(hidden, padded)[..., : layer.out_features]
    return logits if layer.bias is None else logits + layer.bias
