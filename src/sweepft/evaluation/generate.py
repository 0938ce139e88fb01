"""Answers of a model in memory to chats. Runs on every rank of a slot.

As in ``harness``, ranks that hold all weights share the chats; ranks that hold parts of them run all chats together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from sweepft.evaluation.batch_size import fitting_batch


def answer_chats(
    model: Any,
    tokenizer: str,
    chats: Sequence[Sequence[Mapping[str, Any]]],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int | None,
    sharded: bool,
    length_class: Callable[[int], int] | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """The assistant's next turn in each chat, in order, on every rank.

    Args:
        model: A transformers causal language model in evaluation mode; its generation config has the tokens that end
            an answer and fill a batch.
        tokenizer: Folder of its tokenizer. Without a chat template, prompts are the texts of the messages.
        chats: Messages of ``role`` and ``content``; the last one is the user's.
        temperature: 0 for greedy decoding; above, tokens are sampled with ``seed``.
        max_new_tokens: Longest answer. A chat that leaves no room for it is truncated at the beginning.
        seed: Of the samples. Changes the global random state, which the caller restores.
        batch_size: Chats per batch; None for as many as fit.
        sharded: Whether each rank holds only a part of the weights.
        length_class: Class of a length in tokens; chats of different classes, or that may grow into another one, do not
            share a batch. None: all may.
        settings: Further arguments of the chat template for each chat, such as tools.
    """
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(tokenizer, padding_side="left", truncation_side="left")
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = list(range(len(chats))) if sharded else list(range(rank, len(chats), world))
    positions = getattr(model.config, "max_position_embeddings", None)
    room = {"truncation": True, "max_length": max(1, positions - max_new_tokens)} if positions else {}
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(seed)
    found: dict[int, str] = {}
    texts = {i: _prompt(tok, chats[i], settings[i] if settings is not None else {}) for i in mine}
    special = tok.chat_template is None  # a chat has those that its template writes

    def prompt_length(i: int) -> int:
        return len(tok(texts[i], add_special_tokens=special, **room)["input_ids"])

    def length_group(i: int) -> int | str:
        """The class of a chat's lengths from prompt to longest answer; of its own where it may change."""
        assert length_class is not None
        begin = prompt_length(i)
        here, there = length_class(begin), length_class(begin + max_new_tokens)
        return here if here == there else f"chat {i}"

    if batch_size is None:
        longest = max(map(prompt_length, mine), default=0) + max_new_tokens
        batch_size = fitting_batch(model, longest, generated=True)
    for places in _batches(mine, batch_size, length_group if length_class else None):
        batch = tok(
            [texts[i] for i in places], return_tensors="pt", padding=True, add_special_tokens=special, **room
        ).to(model.device)
        out = model.generate(
            **{key: batch[key] for key in ("input_ids", "attention_mask")},
            **sampling,
            max_new_tokens=max_new_tokens,
            synced_gpus=sharded and world > 1,
        )
        ids = out[:, batch["input_ids"].shape[1] :]
        pad_from_end(ids, model, tok.pad_token_id)
        answers = tok.batch_decode(ids, skip_special_tokens=True)
        found |= {i: text.strip() for i, text in zip(places, answers, strict=True)}
    if world > 1 and not sharded:
        shares: list[Any] = [None] * world
        dist.all_gather_object(shares, found)
        found = {i: text for share in shares for i, text in share.items()}
    return [found[i] for i in range(len(chats))]


def _prompt(tok: Any, chat: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """A chat up to the answer, as text."""
    if tok.chat_template is None:
        return "\n".join(str(message["content"]) for message in chat)
    return str(
        tok.apply_chat_template(
            [dict(message) for message in chat], tokenize=False, add_generation_prompt=True, **settings
        )
    )


def pad_from_end(answers: torch.Tensor, model: Any, pad: int) -> None:
    """Fill each answer with the pad token from the token that ends it, which may be an ordinary added token.

    Args:
        answers: Generated ids, (batch, length); changed in place.
        model: Its generation config has the tokens that end an answer.
        pad: The pad token, which is removed when the ids are decoded.
    """
    ends = model.generation_config.eos_token_id
    if ends is not None:
        ended = torch.isin(answers, torch.tensor(ends, device=answers.device))
        answers[ended.cumsum(1) > 0] = pad


def _batches(
    places: Sequence[int], size: int, group: Callable[[int], int | str] | None
) -> Iterator[Sequence[int]]:
    """Batches of at most ``size`` places in order, none across groups."""
    by_group: dict[int | str, list[int]] = {}
    for place in places:
        by_group.setdefault(group(place) if group else 0, []).append(place)
    for held in by_group.values():
        yield from (held[start : start + size] for start in range(0, len(held), size))
