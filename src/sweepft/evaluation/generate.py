"""A living model answers chats. Called on every rank of a slot with the same model, sharded or not.

As in ``harness``: ranks that hold all weights share the chats, ranks that hold parts of them run all chats together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


def answer_chats(
    model: Any,
    tokenizer: str,
    chats: Sequence[Sequence[dict[str, str]]],
    *,
    end_ids: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
    sharded: bool,
) -> list[str]:
    """The assistant's next turn in each chat, in their order, on every rank.

    Args:
        model: A transformers causal language model in evaluation mode.
        tokenizer: Folder of its tokenizer, with its chat template.
        chats: Messages of ``role`` and ``content``; the last one is the user's.
        end_ids: Tokens that end an answer.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn from ``seed``.
        max_new_tokens: Of an answer, at most. Of a chat that leaves no room for so many the beginning is cut off.
        seed: Of the draws; changes the random state, which the caller keeps.
        batch_size: Chats at once.
        sharded: Whether the ranks hold a part of each weight.
    """
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(tokenizer, padding_side="left", truncation_side="left")
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = list(range(len(chats))) if sharded else list(range(rank, len(chats), world))
    positions = getattr(model.config, "max_position_embeddings", None)
    room = {"truncation": True, "max_length": max(1, positions - max_new_tokens)} if positions else {}
    drawn = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(seed)
    said: dict[int, str] = {}
    for start in range(0, len(mine), batch_size):
        places = mine[start : start + batch_size]
        texts = [
            tok.apply_chat_template(list(chats[i]), tokenize=False, add_generation_prompt=True)
            for i in places
        ]
        batch = tok(texts, return_tensors="pt", padding=True, add_special_tokens=False, **room).to(
            model.device
        )
        out = model.generate(
            **{key: batch[key] for key in ("input_ids", "attention_mask")},
            **drawn,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(end_ids),
            pad_token_id=tok.pad_token_id,
            synced_gpus=sharded and world > 1,
        )
        answers = tok.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        said |= {i: text.strip() for i, text in zip(places, answers, strict=True)}
    if world > 1 and not sharded:
        shares: list[Any] = [None] * world
        dist.all_gather_object(shares, said)
        said = {i: text for share in shares for i, text in share.items()}
    return [said[i] for i in range(len(chats))]
