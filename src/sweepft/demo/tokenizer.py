"""A small byte-level BPE tokenizer with a chat template, trained in a second on text we made.

The idea to keep in mind: it is a real `tokenizers` file with special tokens and ``{% generation %}`` marks,
so what works with it works with the tokenizers of real chat models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["CHAT_TEMPLATE", "train_tokenizer"]

CHAT_TEMPLATE: Final = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""ChatML with generation marks."""

_SPECIAL: Final = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def train_tokenizer(rows: Iterable[Mapping[str, Any]], vocab_size: int) -> Any:
    """Train a tokenizer of at most `vocab_size` tokens (256 bytes and 4 special ones included) on chat rows.

    Returns:
        A ``transformers.PreTrainedTokenizerFast`` with pad ``<|pad|>`` (id 0), end of turn and eos
        ``<|im_end|>`` (id 3) and a chat template with generation marks. Digits are single tokens.
    Raises:
        ValueError: If `vocab_size` is below 260.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 256 + len(_SPECIAL):
        raise ValueError(f"vocab_size must be at least {256 + len(_SPECIAL)}, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for row in rows for turn in row["messages"] for text in (turn["role"], turn["content"]))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
