"""Generation settings of a model in memory: the tokens that end its answers, and the token that fills a batch.

They are set once, when the base model is loaded. Benchmarks, MT-Bench and every exported folder then use the tokens
that the data teaches. ``best/train.py`` holds the source of `set_generation`, so it needs no import of sweepft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def set_generation(model: Any, ends: Sequence[int], pad: int) -> None:
    """Set the end and pad tokens in a model's generation config and config.

    Settings of the base model that would keep an answer from ending are removed, and settings without effect that
    transformers refuses to save (a temperature without sampling). How the base model samples stays as it is.

    Args:
        model: A transformers model; changed in place. One without a generation config stays as it is.
        ends: Ids that end an answer, the end of a turn first; with none of them nothing is changed.
        pad: Id that fills padded rows.
    """
    generation = getattr(model, "generation_config", None)
    if generation is None or not ends:
        return
    generation.eos_token_id = ends[0] if len(ends) == 1 else list(ends)
    generation.pad_token_id = pad
    against_ends = ("min_length", "min_new_tokens", "stop_strings", "exponential_decay_length_penalty")
    for key in (*against_ends, "forced_bos_token_id", "forced_eos_token_id"):
        setattr(generation, key, None)
    for key in ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"):
        left = [
            entry for entry in getattr(generation, key) or () if entry not in (*ends, *([i] for i in ends))
        ]
        setattr(generation, key, left or None)
    if generation.do_sample is not True:
        for key in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "top_h",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
        ):
            setattr(generation, key, None)
    if generation.num_beams in (None, 1):
        for key in ("early_stopping", "length_penalty"):
            setattr(generation, key, None)
    try:
        generation.validate(strict=True)
    except ValueError:  # as published, but transformers would not save it
        known = {"bos_token_id": generation.bos_token_id, "eos_token_id": generation.eos_token_id}
        model.generation_config = type(generation)(**known, pad_token_id=pad)
    text = model.config.get_text_config()
    for config in {id(c): c for c in (model.config, text)}.values():
        if config is text or getattr(config, "eos_token_id", None) is not None:
            config.eos_token_id = ends[0]
    if pad not in ends:  # a later training would not train the input embedding of the pad token
        text.pad_token_id = pad
