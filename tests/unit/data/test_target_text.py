"""The text behind target tokens: the same for tokenizers that cut it in other ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sweepft.data.cache import write_token_set
from sweepft.data.target_text import target_text

ROWS = [("Question: ", "it is é 12"), ("Q: ", "  no  ")]


def byte_level(*merged: str) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes, and of these words as tokens of their own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens(list(merged))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    return tokenizer


def measured(
    folder: Path, tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, str]] = ROWS
) -> tuple[int, int, str]:
    rows = []
    for prompt, answer in texts:
        first, second = (tokenizer(text)["input_ids"] for text in (prompt, answer))
        ids = np.array([*first, *second, tokenizer.eos_token_id])
        rows.append((ids, np.arange(len(ids)) >= len(first), None))
    tokens = write_token_set(folder, rows, digest=folder.name, vocab_size=len(tokenizer))
    return int(tokens.targets.sum()), *target_text(tokens, tokenizer)


def test_target_text__does_not_depend_on_the_tokenizer(tmp_path: Path) -> None:
    fine, coarse = (
        measured(tmp_path / name, byte_level(*words)) for name, words in (("a", ()), ("b", ("it is",)))
    )
    assert fine[0] > coarse[0], "other tokens"
    assert fine[1:] == coarse[1:]
    assert fine[1] == len("it is é 12".encode()) + len("no"), (
        "without the special token and white space at the ends"
    )
    assert measured(tmp_path / "c", byte_level(), ROWS[:1])[2] != fine[2]
