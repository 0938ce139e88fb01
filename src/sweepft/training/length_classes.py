"""Which samples may share a forward pass, where a model's rotary embeddings depend on the longest row of a batch.

transformers computes two rope types from the highest position of a whole batch: ``longrope`` has two sets of
frequencies, for batches within the original context length and for longer ones, and ``dynamic`` computes new ones for
each length above it. A sample's loss would then depend on the samples beside it. Samples of one length class give the
same frequencies in any company.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class LengthClasses:
    """Classes of lengths that give the same rotary frequencies.

    Attributes:
        limits: Lengths in tokens up to which one set of frequencies is used, ascending.
        every_length_above: Length above which each length has frequencies of its own; None where there is none.
    """

    limits: tuple[int, ...] = ()
    every_length_above: int | None = None

    def __bool__(self) -> bool:
        return bool(self.limits) or self.every_length_above is not None

    def of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each length, shape (n,): ascending with the length."""
        sizes = np.asarray(lengths, dtype=np.int64)
        classes = np.searchsorted(self.limits, sizes, side="left").astype(np.int64)
        if self.every_length_above is not None:
            classes += np.where(sizes > self.every_length_above, sizes, 0)
        return classes

    def groups(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Positions of the lengths of each class that occurs, classes ascending, positions ascending."""
        classes = self.of(lengths)
        return [np.nonzero(classes == one)[0] for one in np.unique(classes)]

    def at(self, length: int) -> int:
        """The class of one length."""
        return int(self.of(np.asarray([length]))[0])


def length_classes(model: Any) -> LengthClasses:
    """The classes of a model, from its rotary embeddings."""
    limits, above = set(), set()
    for module in model.modules():
        for rope, parameters in _ropes(module):
            if "dynamic" in rope:
                above.add(int(module.original_max_seq_len))
            elif rope == "longrope":
                limits.add(int(parameters["original_max_position_embeddings"]))
        if hasattr(module, "long_factor") and hasattr(module, "original_max_position_embeddings"):
            limits.add(int(module.original_max_position_embeddings))  # remote code of the Phi-3 models
    return LengthClasses(tuple(sorted(limits)), min(above, default=None))


def forget_earlier_lengths(model: Any) -> None:
    """Make the frequencies of ``dynamic`` embeddings depend on the batch at hand alone.

    transformers keeps those of the longest batch so far until one comes that is within the original length, so that
    a loss would depend on the batches before it.
    """
    for module in model.modules():
        if any("dynamic" in rope for rope, _ in _ropes(module)):
            module.register_forward_pre_hook(_reset)


def _reset(module: Any, _: Any) -> None:
    layered = isinstance(module.rope_type, dict)
    for prefix in (f"{layer}_" for layer in module.rope_type) if layered else ("",):
        original = getattr(module, f"{prefix}original_inv_freq", None)
        current = getattr(module, f"{prefix}inv_freq", None)
        if isinstance(original, torch.Tensor) and isinstance(current, torch.Tensor):
            setattr(module, f"{prefix}inv_freq", original.to(current.device))
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _ropes(module: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rope types of a rotary embedding of transformers, each with its parameters; of some by layer type."""
    rope = getattr(module, "rope_type", None)
    parameters = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    if isinstance(rope, str):
        yield rope, parameters
    elif isinstance(rope, dict):
        for layer, one in rope.items():
            yield str(one), parameters.get(layer) or {}
