"""The normal form of instruction data: rows, and the turns of a conversation. No torch, no tokenizer."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

_NO_EXTRA: Final[Mapping[str, Any]] = {}  # shared by all turns without further keys
REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message that hold its reasoning; transformers gives a template one for the other."""
_SAYS_NOTHING: Final = frozenset(("name", "tool_call_id"))  # keys that alone give no answer to learn


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: As in the data: ``system``, ``user``, ``assistant``, ``tool``, or another one the template knows.
        content: The text; empty where a message has only tool calls.
        learn: Whether its tokens are targets; by default (None) those of assistant turns are.
        weight: Of each of its targets in the loss, positive.
        extra: Other keys of the message for the template: ``reasoning_content``, ``tool_calls``, ``name``, ...
    """

    role: str
    content: str
    learn: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: _NO_EXTRA, hash=False)
    weight: float = 1.0

    @property
    def says_more(self) -> bool:
        """Whether keys beside the content hold something to write, such as reasoning or tool calls."""
        return any(value for key, value in self.extra.items() if key not in _SAYS_NOTHING)

    @property
    def learned(self) -> bool:
        """Whether its tokens are targets."""
        return self.role == "assistant" if self.learn is None else self.learn

    @property
    def is_target(self) -> bool:
        """Whether it is a turn to learn, with anything in it."""
        return self.learned and (bool(self.content.strip()) or self.says_more)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Key and text of the content and of the reasoning."""
        yield "content", self.content
        for key in REASONING:
            if isinstance(text := self.extra.get(key), str):
                yield key, text

    def message(self) -> dict[str, Any]:
        """The message as a chat template gets it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True, slots=True)
class Row:
    """One example in normal form.

    Attributes:
        content: The turns of a conversation, or one plain text.
        domain: What kind of example it is, if known.
        where: ``file:line`` (1-based), or ``file: row N`` where rows are not lines.
        tools: JSON schemas of the functions that the template offers to the model.
        variables: Further variables of the template, such as ``enable_thinking``.
    """

    content: tuple[Turn, ...] | str
    domain: str | None
    where: str
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    variables: Mapping[str, Any] = field(default_factory=lambda: _NO_EXTRA, hash=False)

    @property
    def form(self) -> Literal["chat", "text"]:
        """Whether the row is a conversation or a plain text."""
        return "text" if isinstance(self.content, str) else "chat"

    @property
    def has_target(self) -> bool:
        """Whether there is anything to learn: some text, or a turn to learn that is not blank."""
        if isinstance(self.content, str):
            return bool(self.content.strip())
        return any(turn.is_target for turn in self.content)

    def key(self) -> bytes:
        """Digest of the content, blind to case, white space and Unicode forms: equal keys, same example.

        Tools, variables, which turns are learned and their weights do not enter: with others it is the same example.
        """
        turns = (Turn("", self.content),) if isinstance(self.content, str) else self.content
        plain = "\x1e".join(_plain_turn(turn) for turn in turns)
        return hashlib.blake2b(plain.encode(), digest_size=16).digest()

    def written(self) -> str:
        """JSON of all that can change a token or its use: for digests."""
        content: Any = self.content
        if not isinstance(content, str):
            content = [
                [turn.role, turn.content, turn.learned, turn.extra, *([turn.weight] * (turn.weight != 1.0))]
                for turn in content
            ]
        return json.dumps([content, self.domain, self.tools, *([self.variables] if self.variables else [])])


def _plain_turn(turn: Turn) -> str:
    text = f"{turn.role}\x1f{_plain(turn.content)}"
    if turn.extra:
        text += "\x1f" + _plain(json.dumps(turn.extra, sort_keys=True, ensure_ascii=False))
    return text


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
