"""What is known of model families: those whose samples may be packed.

One idea: a family stands here once the tests have shown that its packed samples give the logits and gradients of
unpacked ones; all others are padded.
"""

from __future__ import annotations

from typing import Final

from sweepft.spec.fields import MicroTokens
from sweepft.spec.sections import Train

__all__ = ["PACKABLE", "packing_note"]

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
