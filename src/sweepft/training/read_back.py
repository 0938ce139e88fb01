"""Load an exported folder as a user would, and compare it with the model in memory.

transformers and peft rename, fuse and split weights when they save and load. Nothing is assumed of that here: a folder
counts as written once their own loaders give every weight back, bit for bit, and find nothing missing or unknown.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sweepft.errors import ExportMismatch
from sweepft.training.lora import by_saved_name, scales

_SHOWN: Final = 3


def load_exported(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model of a folder on the CPU, as ``from_pretrained`` loads it. Leaves the random states as they are.

    Raises:
        ExportMismatch: If a weight is missing, unknown or has another shape.
    """
    from transformers import AutoModelForCausalLM

    with random_states_kept():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    found = {
        "are missing": info["missing_keys"],
        "belong to no layer": info["unexpected_keys"],
        "have another shape": [key[0] for key in info["mismatched_keys"]],  # beside the two shapes
    }
    problems = [f"{_some(names)} {what}" for what, names in found.items() if names]
    problems += [str(message) for message in info.get("error_msgs") or ()]
    if problems:
        raise ExportMismatch(f"{folder}: {'; '.join(problems)}")
    return model


def check_model(folder: Path, expected: Mapping[str, torch.Tensor], trust_remote_code: bool = False) -> None:
    """Check that a folder loads with exactly these weights.

    Args:
        folder: As ``save_pretrained`` wrote it.
        expected: Every weight by its name in memory.
        trust_remote_code: Whether the folder's own code may run.
    Raises:
        ExportMismatch: With the names of weights that differ.
    """
    loaded = load_exported(folder, trust_remote_code)
    _compare(folder, loaded.state_dict(), expected)


def check_adapter(folder: Path, loaded: Any, adapted: Any, trained: Mapping[str, torch.Tensor]) -> None:
    """Check that an adapter loaded by peft is the trained one: its weights, and rank and scale of each layer.

    Args:
        folder: Of the adapter, for messages.
        loaded: The base model with the adapter, as ``peft.PeftModel.from_pretrained`` loads it.
        adapted: The model that was trained.
        trained: Its whole trained parameters by their names in memory.
    Raises:
        ExportMismatch: With the names of weights or layers that differ.
    """
    found = {name: tensor.detach() for name, tensor in loaded.named_parameters()}
    _compare(folder, by_saved_name(loaded, found), by_saved_name(adapted, trained))
    theirs, ours = scales(loaded), scales(adapted)
    different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if different:
        raise ExportMismatch(f"{folder}: rank or scale of {_some(different)} differ from the trained ones")


@contextlib.contextmanager
def random_states_kept(device: torch.device | None = None) -> Iterator[None]:
    """Restore the random states of Python, numpy and torch on exit.

    Args:
        device: A GPU that has a random state as well.
    """
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def _compare(folder: Path, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    if found.keys() != expected.keys():
        names = sorted(found.keys() ^ expected.keys())
        raise ExportMismatch(f"{folder}: {_some(names)} are not in both the folder and the trained model")
    same: Callable[[str], bool] = lambda name: _equal(found[name], expected[name])  # noqa: E731
    different = [name for name in expected if not same(name)]
    if different:
        raise ExportMismatch(f"{folder}: {_some(different)} differ from the trained weights")


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits; a weight may be loaded in a wider precision than it was saved in."""
    wide = torch.promote_types(a.dtype, b.dtype)
    bits = [t.detach().to("cpu", wide).reshape(-1).contiguous().view(torch.uint8) for t in (a, b)]
    return a.shape == b.shape and torch.equal(*bits)  # not the numbers: NaN equals itself


def _some(names: Any) -> str:
    ordered = sorted(map(str, names))
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
