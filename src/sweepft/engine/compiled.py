"""``torch.compile`` for a model whose batches change their shape from step to step.

What is compiled is the repeated block, not the model: all blocks share one piece of code, so that a slot compiles one
block instead of twenty to forty, and nothing outside (embedding, loss at the target positions) breaks the graph. Shapes
are symbols from the first call on: else every new length would compile again. What remains are a dozen variants (with
and without gradients, mask, checkpointing, a batch of one row), each compiled when it is first met.

A variant's kernels are laid out for the shapes that it met first, so the losses of a warm trial equal a cold one's
within rounding, not bit for bit.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from sweepft.engine.attention import register

__all__ = ["blocks", "compile_blocks"]

_VARIANTS: Final = 64


def blocks(model: Any) -> list[Any]:
    """The model's repeated blocks: the modules that transformers names as never to be split (``_no_split_modules``).

    Raises:
        ValueError: If the model names none, or has none of those.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [module for module in base.modules() if type(module).__name__ in names]
    if not found:
        raise ValueError(
            f"train.compile: {type(base).__name__} does not say which blocks it repeats; set compile: false"
        )
    return found


def compile_blocks(model: Any) -> None:
    """Let ``torch.compile`` run the model's blocks, from their next call on.

    Raises:
        ValueError: See :func:`blocks`.
    """
    found = blocks(model)
    register(compiled=True)
    torch._dynamo.config.recompile_limit = (
        _VARIANTS  # beyond it torch goes on uncompiled, with a line in the log only
    )
    for block in found:
        block.compile(dynamic=True)
