"""Columns that mean something and that a row cannot have: each with the rule and the remedy of its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TOKENISED: Final = ("tokenised rows are not read", "give the text; rows are tokenised once per sweep")
_MEDIA: Final = ("only text is trained on", "leave these rows out, or remove the column")
_WEIGHT: Final = (
    "rows have no weights of their own",
    "give groups of rows a `domain` and set data.mixture, or write `weight` in the assistant's messages",
)
_CALLS: Final = (
    "tool calls belong to a message",
    "write the row as `messages`, with the calls in the assistant's",
)
REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("input_ids", "token_ids", "assistant_masks", "loss_mask"), _TOKENISED),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _MEDIA),
    **dict.fromkeys(("weight", "weights", "sample_weight", "loss_weight", "train", "mask"), _WEIGHT),
    "function_call": _CALLS,
    "tool_calls": _CALLS,
}
"""Columns that cannot be honoured, with rule and remedy."""

MAP: Final = "name the columns in the source, for example `columns: {prompt: question, completion: reply}`"
PREFERENCE: Final = (
    "preferences are not trained on",
    "to train on the preferred answers alone, write them as `completion`, or as `messages`",
)
_JUDGED: Final = (
    "rows are not chosen by a judgement of them",
    "leave out the rows that are not to be learned, and remove the column",
)
_CONTEXT: Final = (
    "context is read beside `instruction` and `response` only",
    "write it into the question or prompt",
)
_REASONED: Final = (
    "reasoning is read as a key of a message",
    "write the row as `messages`, with `reasoning_content` beside the assistant's `content`",
)
BY_NAME: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("chosen", "rejected"), PREFERENCE),
    **dict.fromkeys(("label", "score", "rating", "reward"), _JUDGED),
    **dict.fromkeys(("context", "documents"), _CONTEXT),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _REASONED),
    "history": ("earlier rounds are read beside `instruction` only", "write them as `messages`"),
}
"""Columns that are refused unless the source names its format: they may be what the user wants to train on."""
