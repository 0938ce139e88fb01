"""Pre-train the demo's tokenizer and base model: ``python -m sweepft.demo.pretrain FOLDER SEED``.

The model is a tiny Llama that learns facts and simple skills in about half a minute. This module imports torch, so it
runs in a child process.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sweepft.data.encode import Encoder
from sweepft.data.rows import Row, Turn
from sweepft.data.templates import ChatFormat
from sweepft.demo.skills import BASE_SKILLS, NEW_SKILLS, knowledge_rows, skill_rows

VOCAB: Final = 1024
BASE_ROWS: Final = 4000
STEPS: Final = 700
BATCH: Final = 16
PEAK_LR: Final = 3e-3
KNOWLEDGE_SHARE: Final = 0.5
THREADS: Final = 1  # a second thread gains little at this size and costs much on a busy machine
Example = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

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
"""ChatML with generation markers."""

_SPECIAL: Final = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def pretrain(folder: Path, seed: int) -> dict[str, float]:
    """Train tokenizer and model, save both in ``folder`` and return the first and last training loss.

    ``seed`` determines weights, data and order.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    facts, skills = knowledge_rows(seed), list(skill_rows(BASE_SKILLS, BASE_ROWS, seed))
    # like the tokenizers of real base models, this one has seen text like that of fine-tuning
    tokenizer = train_tokenizer([*facts, *skills[:1000], *skill_rows(NEW_SKILLS, 1000, seed + 1)], VOCAB)
    encoder = Encoder(tokenizer, ChatFormat(tokenizer, tokenizer.chat_template), 256, "drop")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.08,  # about 1/sqrt(hidden_size); the default 0.02 learns the facts too slowly
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    losses = _train(model, _encoded(encoder, facts), _encoded(encoder, skills), seed)
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"first": losses[0], "last": float(np.mean(losses[-20:]))}


def train_tokenizer(rows: Iterable[Mapping[str, Any]], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer on chat rows.

    Args:
        rows: Rows with ``messages``.
        vocab_size: Maximum number of tokens, including 256 bytes and 4 special tokens.

    Returns:
        A ``transformers.PreTrainedTokenizerFast`` with pad token ``<|pad|>`` (id 0), end of turn and eos token
        ``<|im_end|>`` (id 3), single-digit tokens, and a chat template with generation markers.

    Raises:
        ValueError: If ``vocab_size`` is below 260.
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


def _encoded(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Example]:
    chats = (Row(tuple(Turn(t["role"], t["content"]) for t in row["messages"]), None, "") for row in rows)
    return [(ids, mask) for ids, mask, _ in encoder.encode(chats)]


def _train(model: Any, facts: list[Example], skills: list[Example], seed: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    model.train()
    for step, (ids, labels, attention) in enumerate(_batches(facts, skills, seed)):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        loss = model(input_ids=ids, labels=labels, attention_mask=attention).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def _batches(
    facts: list[Example], skills: list[Example], seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches with fixed shares of facts and skills, padded to their longest row."""
    rng = np.random.default_rng(seed)
    n_facts = round(BATCH * KNOWLEDGE_SHARE)
    for _ in range(STEPS):
        chosen = [facts[i] for i in rng.integers(len(facts), size=n_facts)]
        chosen += [skills[i] for i in rng.integers(len(skills), size=BATCH - n_facts)]
        width = max(len(ids) for ids, _ in chosen)
        ids = torch.zeros(BATCH, width, dtype=torch.long)
        labels = torch.full((BATCH, width), -100)
        attention = torch.zeros(BATCH, width, dtype=torch.long)
        for i, (tokens, mask) in enumerate(chosen):
            row = torch.from_numpy(tokens)
            ids[i, : len(row)] = row
            labels[i, : len(row)] = torch.where(torch.from_numpy(mask), row, -100)
            attention[i, : len(row)] = 1
        yield ids, labels, attention


if __name__ == "__main__":
    print(json.dumps(pretrain(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201 - the parent reads it
