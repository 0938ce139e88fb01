"""Rows to tokens and loss masks.

A token is a target if any of its characters is. Rows without targets are left out and counted by reason.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sweepft.data.cache import CACHE_FORMAT, Mask, TokenRow
from sweepft.data.outcomes import no_target
from sweepft.data.rows import REASONING, Row
from sweepft.data.template_choice import reads
from sweepft.data.templates import ChatFormat, Rendered, any_of, special_tokens
from sweepft.data.written import NotRenderedError

_BATCH: Final = 512
_ENCODER_VERSION: Final = 3  # raise it when the same row gives other tokens or another mask


class Encoder:
    """Tokenises rows for one tokenizer, template and maximum length.

    Attributes:
        counts: Rows by outcome since the start: ``kept``; kept or not, ``truncated``, ``not_as_written`` (the template
            changes a text), ``answer_cut`` (it leaves out some of an answer, such as its reasoning),
            ``variables_not_read`` (it does not read a variable that the row gives) and ``special_in_text`` (a text
            spells a special token); left out are ``no_target`` (no target, or cut off),
            ``over_length``, ``not_rendered`` (the template does not write a turn) and ``refused`` (the template
            refuses the row, or its answers cannot be found).
        example: For each outcome but ``kept``, the place of one such row and what is wrong with it.
    """

    def __init__(self, tokenizer: Any, chat: ChatFormat | None, max_length: int, over_length: str) -> None:
        """Set up.

        Args:
            tokenizer: A fast transformers tokenizer.
            chat: Needed for rows that are conversations.
            max_length: Tokens of a row, at most.
            over_length: ``drop`` or ``truncate`` (keeps the beginning).
        """
        self.tokenizer = tokenizer
        self.chat = chat
        self.max_length = max_length
        self.over_length = over_length
        special = special_tokens(tokenizer)
        self._special = any_of(special)
        self._special_ids = np.array(tokenizer.convert_tokens_to_ids(sorted(special)), np.int64)
        self._most_characters = _most_characters(tokenizer, max_length)
        self.counts: Counter[str] = Counter()
        self.example: dict[str, str] = {}

    def fingerprint(self) -> str:
        """SHA-256 of all that changes a token beside the rows themselves."""
        what = {
            "formats": [CACHE_FORMAT, _ENCODER_VERSION],
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "special": {k: str(v) for k, v in self.tokenizer.special_tokens_map.items()},
            "template": [*self.chat.templates, self.chat.end_of_turn] if self.chat else None,
            "max_length": self.max_length,
            "over_length": self.over_length,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def encode(self, rows: Iterable[Row]) -> Iterator[TokenRow]:
        """Yield the rows that have something to learn, in order; count the others."""
        rest = iter(rows)
        while batch := list(islice(rest, _BATCH)):
            yield from self._encode_batch(batch)

    def _encode_batch(self, batch: Sequence[Row]) -> Iterator[TokenRow]:
        chats: list[tuple[int, Rendered]] = []
        texts: list[tuple[int, str]] = []
        for i, row in enumerate(batch):
            if not row.has_target:
                self._note("no_target", row, no_target(row))
            elif self.over_length == "drop" and (size := self._surely_over(row)):
                self._note("over_length", row, f"{size:,} characters")
            elif isinstance(row.content, str):
                texts.append((i, row.content))
            else:
                rendered = self._render(row)
                if rendered is not None:
                    chats.append((i, rendered))
        done: dict[int, tuple[npt.NDArray[np.int64], Mask]] = {}
        if chats:
            out = self.tokenizer(
                [rendered.text for _, rendered in chats],
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            for (i, rendered), ids, offsets in zip(
                chats, out["input_ids"], out["offset_mapping"], strict=True
            ):
                tokens = np.array(ids, np.int64)
                special = np.isin(tokens, self._special_ids)
                done[i] = tokens, _token_mask(offsets, rendered.spans, special, rendered.weights)
        if texts:
            out = self.tokenizer(
                [text for _, text in texts], add_special_tokens=False, return_attention_mask=False
            )
            for (i, text), ids in zip(texts, out["input_ids"], strict=True):
                self._note_special(batch[i], [self._inner(text)])
                full = self._complete(text, ids)
                done[i] = np.array(full, np.int64), np.ones(len(full), np.bool_)
        for i in sorted(done):
            kept = self._fit(batch[i], *done[i])
            if kept is not None:
                yield (*kept, batch[i].domain)

    def _surely_over(self, row: Row) -> int:
        """Characters of a text that no tokens of `max_length` can hold; 0 without one. It is then not tokenised."""
        limit = self._most_characters
        if limit is None:
            return 0
        texts = [row.content] if isinstance(row.content, str) else []
        if not isinstance(row.content, str):  # earlier answers may be written in part
            last = len(row.content) - 1
            texts = [t.content for i, t in enumerate(row.content) if t.role != "assistant" or i == last]
        return max((len(t) for t in texts if len(t) > limit and len("".join(t.split())) > limit), default=0)

    def _render(self, row: Row) -> Rendered | None:
        assert self.chat is not None, "rows with messages need a chat format"
        assert not isinstance(row.content, str)
        template = self.chat.of(row.tools).template
        unread = _reasoning_not_read(row, template)
        if unread is not None:
            remedy = "use one that does, or write the reasoning into `content`"
            self._note("not_rendered", row, f"the chat template does not read {unread}: {remedy}")
            return None
        try:
            rendered = self.chat.render(row.content, row.tools, row.variables)
        except ValueError as error:
            outcome = "not_rendered" if isinstance(error, NotRenderedError) else "refused"
            self._note(outcome, row, str(error))
            return None
        for outcome, detail in rendered.notes.items():
            self._note(outcome, row, detail)
        if other := [name for name in row.variables if not reads(template, name)]:
            self._note("variables_not_read", row, ", ".join(other))
        self._note_special(row, (text for turn in row.content for _, text in turn.texts()))
        return rendered

    def _complete(self, text: str, ids: list[int]) -> list[int]:
        """The ids of a text with what the tokenizer puts around texts, and eos at the end, each of them once."""
        before, behind = self._around
        begun = ids[: len(before)] == before or self._begins(text)
        ids = ids if begun else [*before, *ids]
        if self._ends(text):
            return ids
        eos = self.tokenizer.eos_token_id
        ids = [*ids, *behind]
        return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]

    @functools.cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts in front of a text and behind it."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[:at], full[at + len(bare) :]

    def _begins(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    def _ends(self, text: str) -> bool:
        eos = self.tokenizer.eos_token
        return eos is not None and text.rstrip().endswith(eos)

    def _inner(self, text: str) -> str:
        """A text without a bos token at its start and an eos token at its end."""
        text = text.removeprefix(self.tokenizer.bos_token) if self._begins(text) else text
        return text.rstrip().removesuffix(self.tokenizer.eos_token) if self._ends(text) else text

    def _note_special(self, row: Row, texts: Iterable[str]) -> None:
        """Count a row whose text spells a special token."""
        for text in texts:
            if found := self._special.search(text):
                self._note("special_in_text", row, found.group())
                return

    def _fit(
        self, row: Row, ids: npt.NDArray[np.int64], mask: Mask
    ) -> tuple[npt.NDArray[np.int64], Mask] | None:
        length = len(ids)
        if length > self.max_length:
            if self.over_length == "drop":
                self._note("over_length", row, f"{length} tokens")
                return None
            ids, mask = ids[: self.max_length], mask[: self.max_length]
        mask[:1] = 0  # nothing predicts the first token
        if not mask.any():
            self._note("no_target", row, f"cut away, {length} tokens" if length > len(ids) else "")
            return None
        if length > len(ids):
            self._note("truncated", row, f"{length} tokens")
        self.counts["kept"] += 1
        return ids, mask

    def _note(self, outcome: str, row: Row, detail: str) -> None:
        self.counts[outcome] += 1
        self.example.setdefault(outcome, f"{row.where}: {detail}" if detail else row.where)


def _most_characters(tokenizer: Any, tokens: int) -> int | None:
    """The most characters that so many tokens can stand for; None where one may stand for any number of them."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = core["model"], core["normalizer"]
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    exact = all(step is None or step["type"] in ("NFC", "Prepend", "Replace") for step in steps)
    whole = model.get("byte_fallback") or (model["type"] == "BPE" and model.get("unk_token") is None)
    composed = 4  # characters that NFC may make one of, and more
    return composed * tokens * max(map(len, tokenizer.get_vocab())) if exact and whole else None


def _reasoning_not_read(row: Row, template: str) -> str | None:
    """The key of reasoning in a conversation whose template reads no reasoning at all."""
    if isinstance(row.content, str) or any(key in template for key in REASONING):
        return None
    return next((key for turn in row.content for key in REASONING if turn.extra.get(key)), None)


def rows_digest(rows: Iterable[Row]) -> str:
    """SHA-256 of rows as they are, in order, domains included."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.written().encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _token_mask(
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    special: npt.NDArray[np.bool_],
    weights: Sequence[float] = (),
) -> Mask:
    """Which tokens overlap a target span; with `weights` of the spans, the weight of each token.

    Args:
        offsets: ``[start, stop)`` of each token in characters.
        spans: Learned parts, ascending, not overlapping.
        special: Which tokens are special. One that begins before a span is no part of it, even if it swallows the white
            space behind it (``rstrip``, as the tokens of Phi-3 do).
        weights: Of the spans; empty where all are 1.
    """
    starts, stops = np.array(offsets, np.int64).reshape(-1, 2).T
    before = np.concatenate([[0], np.maximum.accumulate(stops)[:-1]]) if len(stops) else stops
    starts = np.where(starts < stops, starts, before)  # a token of trimmed white space has an empty offset
    mask: Mask = np.zeros(len(starts), np.float32 if weights else np.bool_)
    for i, (start, stop) in enumerate(spans):
        inside = (starts < stop) & (stops > start) & ~(special & (starts < start))
        mask[inside] = weights[i] if weights else True
    return mask
