"""The text behind a set's target tokens: what losses of models with different tokenizers are compared by.

A loss in nats per token depends on how a tokenizer cuts the text. Per byte of the text it does not: bits per byte =
nats per token x tokens / (bytes x ln 2). Special tokens count as tokens to be predicted, and have no bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from sweepft.data.cache import TokenSet

_BATCH: Final = 256


def target_text(tokens: TokenSet, tokenizer: Any) -> tuple[int, str]:
    """UTF-8 bytes of the text of all target tokens of a set, and a digest of it.

    The digest leaves out white space, which templates and tokenizers treat differently.
    """
    size, digest = 0, hashlib.sha256()
    for first in range(0, len(tokens), _BATCH):
        rows = (tokens.row(i) for i in range(first, min(len(tokens), first + _BATCH)))
        targets = [ids[mask].tolist() for ids, mask in rows]
        for text in tokenizer.batch_decode(
            targets, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ):
            size += len(text.strip().encode("utf-8", "replace"))
            digest.update("".join(text.split()).encode("utf-8", "replace"))
            digest.update(b"\n")
    return size, digest.hexdigest()
